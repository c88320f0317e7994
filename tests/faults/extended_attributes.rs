//! Memory of the kernel's that xattrs take.
