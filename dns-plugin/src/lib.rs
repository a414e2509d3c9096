//! dns-plugin.
