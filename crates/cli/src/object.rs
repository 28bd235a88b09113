//! The objects of an image, as a person and as a program reads them.

use frost_model::cap::Capability;
use frost_model::rm::Attachment;

/// The name of a kind: that of its files in the source.
pub(crate) fn kind(capability: &Capability) -> &'static str {
    match capability {
        Capability::Regular(_) => "regular",
        Capability::Directory(_) => "directory",
        Capability::Device(_) => "device",
        Capability::Pipe(_) => "pipe",
        Capability::Fifo(_) => "fifo",
        Capability::EventFd(_) => "eventfd",
        Capability::Epoll(_) => "epoll",
        Capability::SignalFd(_) => "signalfd",
        Capability::TimerFd(_) => "timerfd",
        Capability::PidFd(_) => "pidfd",
        Capability::Memfd(_) => "memfd",
        Capability::Unix(_) => "unix",
        Capability::TcpListener(_) | Capability::TcpStream(_) => "tcp",
        Capability::Udp(_) => "udp",
        Capability::Outside(_) => "outside",
    }
}

/// What a region shows.
pub(crate) fn attachment(attachment: &Attachment) -> String {
    match attachment {
        Attachment::Anonymous => "anonymous".to_owned(),
        Attachment::File { file, .. } => file.path.to_string(),
        Attachment::Dataspace { dataspace, .. } => format!("dataspace {dataspace}"),
        Attachment::Description { description, .. } => format!("description {description}"),
        Attachment::Special(special) => format!("[{special:?}]").to_lowercase(),
    }
}
