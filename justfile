# Everything is a task of 'cargo xtask'; these are short names for it.

# Lists the recipes.
default:
    @just --list

# What needs no root: formatting, lints, unit tests, documents.
check:
    cargo xtask check

# Every test, as root.
test *arguments:
    cargo xtask test {{arguments}}

# Packages (.deb, .rpm), archives, checksums and the list of what is in them, in target/dist.
dist:
    cargo xtask dist
