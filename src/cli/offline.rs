//! A view's filesystem without a mount, for questions about it.

use std::sync::Arc;

use crate::error::Error;
use crate::fs::CgroupFs;
use crate::host::{HostCgroups, KernelHost};
use crate::records::Records;
use crate::view::View;

/// Makes the filesystem that a server of this view would serve.
pub(super) fn offline(host: HostCgroups, view: View) -> Result<CgroupFs<KernelHost>, Error> {
    let view = Arc::new(view);
    let host = KernelHost::new(Arc::clone(&view), host, None, &Records::none());
    let host = host.map_err(|error| Error::system("can't read own namespaces", error))?;
    CgroupFs::new(view, host).map_err(|errno| Error::system("can't find the root of the view", errno.into()))
}
