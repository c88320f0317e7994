//! Containers and users of the host can't take resources from each other.
//!
//! | module | what one takes |
//! |---|---|
//! | [`devices`] | threads of the server, by writes that wait for a device |
//! | [`listings`] | processor time of the server, by listing large directories |
//! | [`passthrough`] | backing ids, by which the kernel reads files by itself |
//! | [`processor`] | processor time of the server, by whatever costs it much |
//! | [`tenants`] | slots of a mount for all containers, by pid namespaces that a user of the host makes |

mod devices;
mod listings;
mod passthrough;
mod processor;
mod scene;
mod tenants;
