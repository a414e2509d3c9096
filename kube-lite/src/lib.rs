//! A Kubernetes API in one process, over the store of the mesh.
mod apply;
mod kinds;
mod jsonpath;
mod object;
mod patch;
mod path;
mod schema;
mod select;
mod status;
