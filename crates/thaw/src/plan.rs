//! The plan: what a thaw would do, and all that is in its way.

use frost_model::rm::{Attachment, Region};

/// Says which region is meant.
pub(crate) fn region_text(region: &Region) -> String {
    let what = match &region.attachment {
        Attachment::Anonymous if region.flags.grows_down => "stack".to_owned(),
        Attachment::Anonymous => "anonymous memory".to_owned(),
        Attachment::File { file, .. } => file.path.to_string(),
        Attachment::Dataspace { .. } => "shared memory".to_owned(),
        Attachment::Description { .. } => "a file without a name".to_owned(),
        Attachment::Special(_) => "memory of the kernel".to_owned(),
    };
    format!("region {} ({what})", region.range)
}

/// Names of the limits, by number (`include/uapi/asm-generic/resource.h`).
const LIMIT_NAMES: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// Returns the name of a limit.
pub(crate) fn limit_name(number: u32) -> &'static str {
    LIMIT_NAMES.get(number as usize).copied().unwrap_or("an unknown limit")
}
