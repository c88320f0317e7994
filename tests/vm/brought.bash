# A kernel that somebody brings: `--kernel IMAGE`, and its modules, if it wants any. Sourced by `run`.

# Prints the release of a bzImage, from its header (Documentation/x86/boot: the magic at 0x202, the offset of the text at 0x20e).
release_of() {
    local image=$1 offset
    [ "$(dd if="$image" bs=1 skip=514 count=4 2>/dev/null)" = HdrS ] || return
    offset=$(od -An -tu2 -j526 -N2 "$image")
    tail -c +$((offset + 513)) "$image" | head -c 200 | tr '\0' '\n' | sed 's/ .*//;q'
}

# brought IMAGE [MODULES]: puts $work/kernels/brought-RELEASE/{vmlinuz,modules/} there, and says the release in $release. What it wants of
# MODULES, a folder like /lib/modules/RELEASE, is the modules of `kernel_modules` that are there.
brought() {
    local image=$1 modules=$2 target module
    release=$(release_of "$image")
    [ -n "$release" ] || die "$image is no kernel image (bzImage, vmlinuz) for x86_64"
    target=$work/kernels/brought-$release
    rm -rf "$target"
    mkdir -p "$target/modules"
    cp "$image" "$target/vmlinuz" || die "can't copy $image"
    [ -n "$modules" ] || return 0
    for module in "${kernel_modules[@]}"; do
        find -L "$modules" -name "$module.ko*" -exec cp {} "$target/modules/" \;
    done
    find "$target/modules" -name '*.xz' -exec xz -d {} +
    find "$target/modules" -name '*.gz' -exec gzip -d {} +
    find "$target/modules" -name '*.zst' -exec zstd -q -d --rm {} +
    [ -e "$target/modules/fuse.ko" ] || die "there's no fuse.ko below $modules"
}

# run_brought SETUP...: boots it in these setups, or, without any, in `legacy` and whatever else it has the means for.
run_brought() {
    local setups=("$@") setup
    [ $# -gt 0 ] || setups=(legacy)
    image base "brought-$release"
    for setup in "${setups[@]}"; do boot "$setup-$release" "brought-$release" "$setup"; done
    [ $# = 0 ] || return 0
    # What the machine said of itself.
    if grep -q '^VM-HAS cgroup2' "$work/legacy-$release.log"; then
        for setup in hybrid unified; do boot "$setup-$release" "brought-$release" "$setup"; done
    else
        say "legacy-$release: hybrid and unified aren't tried, the kernel has no cgroup2"
    fi
}
