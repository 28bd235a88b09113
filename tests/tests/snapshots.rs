//! Images of a program that goes on: each is of one instant, and the program notices nothing.
//!
//! `FROST_SNAPSHOTS` says how many are made of each program (3).

use frost_tests::{Who, journey};
use std::path::Path;

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_victim"))
}

fn rounds() -> u32 {
    std::env::var("FROST_SNAPSHOTS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Programs whose memory changes, is mapped and unmapped, while it is copied.
macro_rules! moving {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn each_snapshot_is_of_one_instant() {
                journey::snapshots(binary(), stringify!($name), Who::Myself, rounds());
            }

            #[test]
            fn each_snapshot_by_an_ordinary_user_is_of_one_instant() {
                journey::snapshots(binary(), stringify!($name), Who::Ordinary, rounds());
            }

            #[test]
            fn ended_behind_a_precopy() {
                journey::thawed_after_precopy(binary(), stringify!($name), Who::Myself);
            }
        }
    )*};
}

/// What it reads may be written by a device past all protection, so it is copied while it stands still.
#[test]
fn a_snapshot_of_what_reads_directly_is_of_one_instant() {
    journey::snapshots_in_the_stop(binary(), "moving_direct", Who::Myself, rounds());
}

/// A leader that is seized on its way to its end is not waited for.
#[test]
fn each_snapshot_amid_the_ends_of_leaders_is_of_one_instant() {
    for who in [Who::Myself, Who::Ordinary] {
        journey::snapshots_of_comers_and_goers(binary(), "moving_leaders_end", who, rounds() * 4);
    }
}

moving! {
    moving_counters
    moving_leader
    moving_mappings
    moving_remapped
    moving_shared
    memfd_shared
    memfd_sparse
    memfd_closed
    shared_sparse
    shared_part_unmapped
    moving_stack
    moving_file
    anonymous_huge_pages
    anonymous_guard_regions
    anonymous_unreadable
    anonymous_advice
    anonymous_forked
    anonymous_forked_shared
    shared_between_processes
    restart_futex_timeout
    tree_sessions
}
