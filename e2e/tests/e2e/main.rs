//! Whole clusters, from outside. One binary, so that it is linked once; each module is one subject.

#[cfg(test)]
mod bed;
#[cfg(test)]
mod dns;
