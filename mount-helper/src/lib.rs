//! The only part of vcgroupfs that enters a container's namespaces.
