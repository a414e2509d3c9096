//! Whole clusters, from outside. One binary, so that it is linked once; each module is one subject.

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod bed;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod chart;
#[cfg(test)]
mod connect;
#[cfg(test)]
mod derived;
#[cfg(test)]
mod dns;
#[cfg(test)]
mod edge;
#[cfg(test)]
mod etcdinit;
#[cfg(test)]
mod forget;
#[cfg(test)]
mod kube_store;
#[cfg(test)]
mod packet;
#[cfg(test)]
mod path;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod scopes;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod three;
#[cfg(test)]
mod worlds;
