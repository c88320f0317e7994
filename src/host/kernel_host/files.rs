//! Open backing files: opening, reading and writing them.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};

use super::KernelHost;
use super::tree::attributes;
use crate::cgroup::HierarchyKind;
use crate::fs::SysResult;
use crate::fs::host::{Credentials, HostFiles, OpenMode, Owner, WriterCredentials};
use crate::fs::inode::{Attributes, Node};
use crate::host::backing_file::BackingFile;
use crate::host::cgroup_namespace::OpenedIn;
use crate::host::opening::{by_id, open_as, open_flags, path_of};
use crate::host::pid_list::OpenerPidList;
use crate::sys::descriptors::recovered;
use crate::sys::namespace::Entered;

impl HostFiles for KernelHost {
    type File = BackingFile;

    fn open(&self, file: &Node, mode: OpenMode, opener: Option<&Credentials>) -> SysResult<BackingFile> {
        let flags = open_flags(mode);
        let hierarchy = self.hierarchy(file)?;
        let (_entered, opened_in) = match opener {
            Some(opener) if mode.write && hierarchy.kind == HierarchyKind::Unified => self.enter_for(file, opener)?,
            _ => (None, OpenedIn::Around),
        };
        if let (Some(opener), true, false) = (opener, mode.truncate, mode.write) {
            // The opener's rights decide whether the kernel clears set-user and set-group bits. The mount for reading
            // doesn't allow truncate.
            open_as(&*self.object(file)?, flags | OFlag::O_TRUNC, opener)?;
        }
        let opened = self.open_backing(file, flags, mode.write, opener.filter(|_| mode.write));
        // An older kernel (5.10) still finds a removed file by its id, and kernfs_fop_open returns ENODEV. A lookup
        // by name returns ENOENT.
        let fd = opened.map_err(|errno| if errno == Errno::ENODEV { Errno::ENOENT } else { errno })?;
        let is_list = mode.read && file.is_membership() && hierarchy.kind != HierarchyKind::Unified;
        let list = (is_list && self.shared.lists_are_made_at_open())
            .then(|| OpenerPidList::new(opener.map_or(0, |opener| opener.owner.uid), &self.shared.kept_lists));
        Ok(BackingFile::new(fd, opened_in, list))
    }

    fn recorded(&self, file: &BackingFile) -> Option<(i32, u8)> {
        file.list.is_none().then(|| (file.fd.as_raw_fd(), file.opened_in.number()))
    }

    fn take_over(&self, descriptor: i32, how: u8) -> Option<BackingFile> {
        Some(BackingFile::new(recovered(descriptor)?, OpenedIn::numbered(how)?, None))
    }

    fn take_over_checked(&self, descriptor: i32) -> Option<BackingFile> {
        Some(BackingFile::new(recovered(descriptor)?, OpenedIn::Boundary, None))
    }

    fn file_attributes(&self, file: &BackingFile) -> SysResult<Attributes> {
        Ok(attributes(&fstat(&file.fd)?))
    }

    fn passthrough(&self, file: &Node) -> SysResult<OwnedFd> {
        let hierarchy = self.hierarchy(file)?;
        if hierarchy.has_handles() && file.inode() != 0 {
            return by_id(hierarchy.root(), file.inode(), libc::O_RDONLY);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        nix::fcntl::open(path_of(&*self.object(file)?).as_str(), flags, Mode::empty())
    }

    fn most_files(&self) -> usize {
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        limit.map_or(1024, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
    }

    fn read(&self, file: &BackingFile, offset: u64, buffer: &mut [u8]) -> SysResult<usize> {
        file.read_at(offset, buffer)
    }

    fn write(&self, file: &BackingFile, data: &[u8], writer: &WriterCredentials) -> SysResult<usize> {
        self.write_by(writer, file, data)
    }

    fn write_migrating(
        &self,
        file: &BackingFile,
        directory: &Node,
        data: &[u8],
        writer: &WriterCredentials,
    ) -> SysResult<usize> {
        self.write_migrating_by(writer, file, directory, data)
    }

    fn write_invalid(&self, file: &BackingFile, data: &[u8]) -> SysResult<usize> {
        file.write_once(data)
    }

    fn sync(&self, file: &BackingFile) -> SysResult<()> {
        nix::unistd::fsync(&file.fd)
    }
}

impl KernelHost {
    /// Enters the cgroup namespace in which a file of cgroup2 is opened for writing.
    pub(super) fn enter_for(&self, file: &Node, opener: &Credentials) -> SysResult<(Option<Entered<'_>>, OpenedIn)> {
        match &self.boundary {
            Some(boundary) if file.is_membership() => boundary.enter_for(opener),
            _ => {
                let Some(own) = &self.shared.cgroup_namespace else { return Ok((None, OpenedIn::Around)) };
                let other = own.other_of(opener.thread)?;
                Ok((other.map(|other| own.enter(other.as_fd())).transpose()?, OpenedIn::Elsewhere))
            }
        }
    }

    /// Opens a file, as its opener if one is given.
    pub(super) fn open_backing(
        &self,
        file: &Node,
        flags: OFlag,
        write: bool,
        opener: Option<&Credentials>,
    ) -> SysResult<OwnedFd> {
        let hierarchy = self.hierarchy(file)?;
        match opener {
            Some(opener) if !self.is_as_server(opener) => open_as(&*self.object(file)?, flags, opener),
            _ if hierarchy.has_handles() && file.inode() != 0 => {
                let root = if write { hierarchy.root() } else { hierarchy.root_for_reading() };
                by_id(root, file.inode(), flags.bits())
            }
            _ => nix::fcntl::open(path_of(&*self.object(file)?).as_str(), flags, Mode::empty()),
        }
    }

    /// Whether opening as this opener is the same as opening as the server.
    fn is_as_server(&self, opener: &Credentials) -> bool {
        opener.id_maps.is_none()
            && opener.owner == (Owner { uid: 0, gid: 0 })
            && opener.groups.is_empty()
            && opener.capabilities & self.shared.capabilities == self.shared.capabilities
    }
}
