//! Layouts shared between frost and the code that it runs inside a target.
//!
//! Nothing here allocates or calls: these are the bytes both sides agree on. What depends on the processor is
//! x86-64 so far and stands in this crate, in `sys::ptrace` and in `tracee::interpreter`.
#![no_std]
#![forbid(unsafe_code)]

pub mod tape;
