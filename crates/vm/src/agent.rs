//! The host's end of the port to a guest's init.

use crate::error::{Error, Result};
use crate::wire;
use frost_model::machine::Guest;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde_bytes::ByteBuf;
use std::collections::VecDeque;

/// A frame of the init's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// One of the guest's words of [`wire`].
    pub word: u8,
    /// What follows it.
    pub content: Vec<u8>,
}

/// Frames of one class, of which one at a time is on its way.
#[derive(Debug, Default)]
struct Class {
    /// The number of the first in the queue if it was sent, else of the one before it.
    number: u8,
    sent: bool,
    queue: VecDeque<(u8, Vec<u8>)>,
}

/// The connection to an init.
#[derive(Debug)]
pub struct Agent {
    socket: OwnedFd,
    partial: Vec<u8>,
    classes: [Class; 2],
    unsent: Vec<u8>,
}

impl Agent {
    /// Makes a connection whose other end is to be given to QEMU.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn pair() -> Result<(Self, OwnedFd)> {
        let pair =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let (socket, theirs) = pair.map_err(Error::call("cannot make a socket to the guest"))?;
        Ok((Self { socket, partial: Vec::new(), classes: Default::default(), unsent: Vec::new() }, theirs))
    }

    /// Goes on where a frozen guest and its host stood: what was not acknowledged is sent again.
    pub fn continue_from(&mut self, guest: &Guest) {
        self.partial = guest.partial.to_vec();
        self.unsent.push(wire::RESET);
        for (class, number) in self.classes.iter_mut().zip(guest.numbers) {
            class.number = number;
        }
        let input = guest.input.iter().map(|content| (wire::INPUT, content.to_vec()));
        self.classes[1].queue.extend(input);
        // Its number is that of the guest's last frame: if that came, it is acknowledged and not obeyed again.
        self.classes[1].sent = !guest.input.is_empty();
        self.send_first(1);
    }

    /// Tells what a thaw must know, into the record of the guest.
    pub fn state_into(&self, guest: &mut Guest) {
        guest.partial = ByteBuf::from(self.partial.clone());
        guest.numbers = [self.classes[0].number, self.classes[1].number];
        // The number counts the first of them as sent.
        if !self.classes[1].queue.is_empty() && !self.classes[1].sent {
            guest.numbers[1] = guest.numbers[1].wrapping_add(1);
        }
        guest.input =
            self.classes[1].queue.iter().map(|(_, content)| ByteBuf::from(content.clone())).collect();
    }

    /// Sends a frame, now or when those before it were acknowledged.
    pub fn send(&mut self, word: u8, content: &[u8]) {
        let index = usize::from(wire::class(word));
        let class = &mut self.classes[index];
        class.queue.push_back((word, content.to_vec()));
        if !class.sent {
            class.number = class.number.wrapping_add(1);
            class.sent = true;
            self.send_first(index);
        }
        self.flush();
    }

    /// How much input waits for the guest, in frames.
    pub fn waiting(&self) -> usize {
        self.classes[1].queue.len()
    }

    /// Whether bytes wait for QEMU to take them.
    pub fn is_full(&self) -> bool {
        !self.unsent.is_empty()
    }

    fn send_first(&mut self, class: usize) {
        let Class { number, queue, .. } = &self.classes[class];
        let Some((word, content)) = queue.front() else { return };
        for byte in [word, number].into_iter().chain(content) {
            let (escape, byte) = wire::escaped(*byte);
            self.unsent.extend(escape);
            self.unsent.push(byte);
        }
        self.unsent.push(wire::END);
    }

    /// Gives QEMU what it takes now.
    pub fn flush(&mut self) {
        while !self.unsent.is_empty() {
            match rustix::net::send(&self.socket, &self.unsent, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(Errno::INTR) => {}
                // Full, or QEMU has ended, which its end tells.
                Err(_) => return,
            }
        }
    }

    /// Reads what is there, without waiting; acknowledgements are dealt with.
    ///
    /// # Errors
    /// [`Error::Gone`] if QEMU has ended; frames that came before are lost then, so read before each wait.
    pub fn frames(&mut self) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        let mut bytes = [0; 1 << 14];
        loop {
            let count = match rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) if frames.is_empty() => return Err(Error::Gone),
                Ok((0, _)) | Err(Errno::AGAIN) => break,
                Ok((count, _)) => count,
                Err(Errno::INTR) => continue,
                Err(_) if frames.is_empty() => return Err(Error::Gone),
                Err(_) => break,
            };
            self.partial.extend_from_slice(&bytes[..count]);
            while let Some(end) = self.partial.iter().position(|byte| *byte == wire::END) {
                let raw: Vec<u8> = self.partial.drain(..=end).collect();
                let mut decoded = decode(&raw[..end]).into_iter();
                if let Some(word) = decoded.next() {
                    let frame = Frame { word, content: decoded.collect() };
                    match (frame.word, frame.content.as_slice()) {
                        (wire::ACK, [class, number, ..]) => self.acknowledged(*class, *number),
                        _ => frames.push(frame),
                    }
                }
            }
            // A guest that never ends a frame is no reason to take up memory.
            if self.partial.len() > 4 * wire::FRAME_BYTES {
                self.partial.clear();
            }
        }
        self.flush();
        Ok(frames)
    }

    fn acknowledged(&mut self, class: u8, number: u8) {
        let index = usize::from(class).min(1);
        let class = &mut self.classes[index];
        if !class.sent || class.number != number {
            return;
        }
        class.queue.pop_front();
        class.sent = !class.queue.is_empty();
        if class.sent {
            class.number = class.number.wrapping_add(1);
            self.send_first(index);
        }
    }
}

impl AsFd for Agent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn decode(raw: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut escape = false;
    for byte in raw {
        match *byte {
            wire::ESCAPE if !escape => escape = true,
            byte => {
                bytes.push(if escape { wire::unescaped(byte) } else { byte });
                escape = false;
            }
        }
    }
    bytes
}

/// The frame that sets a guest's clock to ours and its random numbers apart from those of any copy.
pub fn time() -> Vec<u8> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut content = (since.as_nanos() as u64).to_le_bytes().to_vec();
    let mut random = [0; 32];
    // It blocks early in a boot of the host only.
    if rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).is_ok() {
        content.extend_from_slice(&random);
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The init's side, as far as frames go.
    fn read(socket: &OwnedFd) -> Vec<Vec<u8>> {
        let mut bytes = [0; 4096];
        let count = match rustix::net::recv(socket, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((count, _)) => count,
            Err(_) => 0,
        };
        let text: Vec<u8> = bytes[..count].iter().copied().filter(|byte| *byte != wire::RESET).collect();
        text.split(|byte| *byte == wire::END).filter(|raw| !raw.is_empty()).map(decode).collect()
    }

    fn acknowledge(socket: &OwnedFd, class: u8, number: u8) {
        rustix::net::send(socket, &[wire::ACK, class, number, wire::END], SendFlags::empty()).unwrap();
    }

    #[test]
    fn one_frame_of_a_class_is_on_its_way() {
        let (mut agent, guest) = Agent::pair().unwrap();
        agent.send(wire::INPUT, b"a");
        agent.send(wire::INPUT, &[wire::END, wire::ESCAPE, wire::RESET]);
        agent.send(wire::SIGNAL, &[15]);
        assert_eq!(read(&guest), [[wire::INPUT, 1, b'a'], [wire::SIGNAL, 1, 15]]);
        acknowledge(&guest, 1, 7);
        acknowledge(&guest, 1, 1);
        assert!(agent.frames().unwrap().is_empty());
        assert_eq!(read(&guest), [[wire::INPUT, 2, wire::END, wire::ESCAPE, wire::RESET]]);
    }

    #[test]
    fn a_thaw_sends_again_what_was_not_acknowledged() {
        let (mut agent, guest) = Agent::pair().unwrap();
        agent.send(wire::INPUT, b"a");
        agent.send(wire::INPUT, b"b");
        rustix::net::send(&guest, b"Ohal", SendFlags::empty()).unwrap();
        assert!(agent.frames().unwrap().is_empty());
        let mut record = Guest::default();
        agent.state_into(&mut record);

        let (mut agent, guest) = Agent::pair().unwrap();
        agent.continue_from(&record);
        agent.flush();
        assert_eq!(read(&guest), [[wire::INPUT, 1, b'a']]);
        rustix::net::send(&guest, &[b'f', wire::END], SendFlags::empty()).unwrap();
        acknowledge(&guest, 1, 1);
        assert_eq!(agent.frames().unwrap(), [Frame { word: wire::OUTPUT, content: b"half".to_vec() }]);
        assert_eq!(read(&guest), [[wire::INPUT, 2, b'b']]);
        acknowledge(&guest, 1, 2);
        agent.frames().unwrap();
        agent.send(wire::INPUT, b"c");
        assert_eq!(read(&guest), [[wire::INPUT, 3, b'c']]);
        drop(guest);
        assert!(matches!(agent.frames(), Err(Error::Gone)));
    }
}
