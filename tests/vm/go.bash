# A program in Go for the suite `clients`, built with Go 1.25, the first whose runtime looks at cgroups. Sourced by `run`.
#
# bookworm has 1.19. So the compiler is unpacked below $work, from Debian's backports to a newer suite, and what it builds is static.

go_series=1.25
go_suites=(bookworm-backports trixie trixie-backports forky)

# Where the program is, once `go_program` has made it.
go_limits() {
    echo "$work/go/limits"
}

# Makes the program, unless there is one by the same recipe.
go_program() {
    local folder=$work/go recipe suite root
    recipe=$(cat "$here/go.bash" "$here/clients/go/limits.go" | sha256sum | cut -d' ' -f1)
    [ -e "$folder/limits" ] && [ "$(cat "$folder/recipe" 2>/dev/null)" = "$recipe" ] && return
    say "building a program in Go $go_series"
    rm -rf "$folder"
    for suite in "${go_suites[@]}"; do
        add_suite "$suite" || continue
        [ -n "$(in_suite "$suite" apt-cache pkgnames "golang-$go_series-go")" ] || continue
        mkdir -p "$folder/root"
        (cd "$folder" && in_suite "$suite" apt-get -qq download "golang-$go_series-go" "golang-$go_series-src") >"$folder/log" 2>&1 || continue
        find "$folder" -maxdepth 1 -name '*.deb' -exec dpkg -x {} "$folder/root" \;
        root=$folder/root/usr/lib/go-$go_series
        # Nothing of this machine's own Go, and nothing from elsewhere.
        env -i PATH="$PATH" HOME="$folder" GOROOT="$root" GOTOOLCHAIN=local GOCACHE="$folder/cache" GOENV=off GOPROXY=off CGO_ENABLED=0 \
            "$root/bin/go" build -ldflags=-s -o "$folder/limits" "$here/clients/go/limits.go" >>"$folder/log" 2>&1 || return
        rm -rf "$folder"/{root,cache,*.deb}
        echo "$recipe" >"$folder/recipe"
        return
    done
    return 1
}
