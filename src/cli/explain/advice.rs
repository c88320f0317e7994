//! What can be changed about a rejection, by its rule.

use crate::policy::Rule;

/// What to change so that the operation is allowed, or what to do instead.
pub(super) const fn advice(rule: Rule) -> &'static str {
    match rule {
        Rule::Hidden | Rule::OutsideSubtree => {
            "use a path in the container's own subtree ('vcgroupfs map' tells it), or make the view for a cgroup further up (--cgroup)"
        }
        Rule::BoundaryItself => "remove or rename what is below; the host removes the boundary itself",
        Rule::BoundaryAttributes | Rule::ControllerFile => {
            "make the view with --policy delegate, or change it below the boundary or on the host"
        }
        Rule::XattrOnFile => "set it on the cgroup's directory",
        Rule::XattrBudget => "remove xattrs that aren't needed",
        Rule::V1ControllersReadOnly => "make the view with --policy delegate and --delegate-controllers",
        Rule::V1ControllersRename => "make a cgroup with the new name, and migrate the processes",
        Rule::V1BoundaryLimits => "change the limit on the host, or in a cgroup below the boundary",
        Rule::LimitsNotInherited | Rule::ControllerNotDelegated => {
            "name the controller in --delegate-controllers when you make the view"
        }
        Rule::NotDelegatable | Rule::NotDelegatableAtWrite => "change it below the boundary, or on the host",
        Rule::NotifyOnRelease | Rule::ReleaseAgent => "let a program in the container watch for empty cgroups instead",
        Rule::EventControl => "use a kernel from Linux 5.6 on, or poll the file that has the value",
        Rule::UnknownFile => "change it on the host; if the file is safe, report that this version doesn't know it",
        Rule::NoFileCreation | Rule::NoSuchOperation => "nothing: the kernel's own cgroupfs refuses it as well",
        Rule::SourceOutside => "migrate the process into the container's subtree on the host first",
        Rule::CommonAncestor => "let the user write cgroup.procs of the common ancestor, or migrate as another user",
        Rule::AnothersProcess => "migrate it as root, or as the process' own user",
        Rule::CallerInvisible => "start the server in a pid namespace that sees the caller's",
        Rule::ContainerUnknown => "run the process in a pid namespace that has a process 1",
        Rule::TooManyContainers => "end pid namespaces that aren't needed",
        Rule::ServerInside => "migrate the server out of the container's subtree",
    }
}
