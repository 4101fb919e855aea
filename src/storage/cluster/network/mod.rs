//! The way to the nodes: the map from slots to nodes, a connection to each master, and
//! requests that are sent again until they were done, or until nobody can know.

pub mod link;
pub mod node;
pub mod protocol;
pub mod replies;
pub mod router;
pub mod tick;
pub mod topology;
pub mod traffic;
pub mod waves;
