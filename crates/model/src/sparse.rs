//! Bytes of which many are zero: their length, then each run of others by its offset.
//!
//! Such are xsave areas: each component of the processor's state has its place there, and a thread uses few of them, so that
//! of 2,688 bytes some 100 to 600 are left. With 10,000 threads these areas were three fifths of a manifest.

use serde::de::{Error, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserializer, Serializer};
use serde_bytes::{ByteBuf, Bytes};
use std::fmt;
use std::ops::Range;

/// More than any processor's area of state; a length that is only announced must not take memory without end.
const MOST_BYTES: u64 = 1 << 20;

/// A run ends where so many bytes are zero, a multiple of eight: to begin another takes some bytes for its offset and length.
const GAP_BYTES: usize = 16;

/// Writes bytes as an array of their length and the runs of them that are not zero, each by its offset; none as none.
///
/// # Errors
/// Those of `serializer`.
pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    if bytes.is_empty() {
        return serializer.serialize_bytes(bytes);
    }
    let runs = runs(bytes);
    let mut array = serializer.serialize_seq(Some(1 + 2 * runs.len()))?;
    array.serialize_element(&(bytes.len() as u64))?;
    for run in runs {
        array.serialize_element(&(run.start as u64))?;
        array.serialize_element(Bytes::new(&bytes[run]))?;
    }
    array.end()
}

/// Reads what [`serialize`] writes, and bytes as they are.
///
/// # Errors
/// If runs do not ascend, or do not lie within the length, or that is larger than 1 MiB.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    deserializer.deserialize_any(Sparse)
}

/// Finds the runs between gaps of zeros.
fn runs(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, word) in bytes.chunks(8).enumerate().filter(|(_, word)| word.iter().any(|byte| *byte != 0)) {
        let (start, end) = (index * 8, index * 8 + word.len());
        match runs.last_mut() {
            Some(last) if start < last.end + GAP_BYTES => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

struct Sparse;

impl<'de> Visitor<'de> for Sparse {
    type Value = Vec<u8>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("bytes, or their length and their runs")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Vec<u8>, A::Error> {
        let len: u64 = array.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        if len > MOST_BYTES {
            return Err(A::Error::custom("sparse bytes of more than 1 MiB"));
        }
        let mut bytes = vec![0; len as usize];
        let mut last = 0;
        while let Some(offset) = array.next_element::<u64>()? {
            let run: ByteBuf = array.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
            let place = usize::try_from(offset).ok().filter(|offset| *offset >= last);
            let end = place.and_then(|start| start.checked_add(run.len()));
            match (place, end) {
                (Some(start), Some(end)) if end <= bytes.len() => {
                    bytes[start..end].copy_from_slice(&run);
                    last = end;
                }
                _ => return Err(A::Error::custom("a run of sparse bytes that has no place")),
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Area(#[serde(with = "super")] Vec<u8>);

    fn written<T: Serialize>(value: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).unwrap();
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Area, String> {
        ciborium::from_reader(bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn every_area_comes_back() {
        let mut areas = vec![vec![], vec![0; 1], vec![7; 832], vec![0; 2688]];
        let places: [&[usize]; 5] = [&[0], &[2687], &[511, 512, 2000], &[7, 8, 31, 32, 47, 48], &[0, 23]];
        for places in places {
            let mut area = vec![0; 2688];
            places.iter().for_each(|place| area[*place] = 0xa5);
            areas.push(area);
        }
        // Its length is no multiple of eight.
        areas.push([vec![0; 100], vec![1, 0, 1]].concat());
        for area in areas {
            assert_eq!(read(&written(&Area(area.clone()))), Ok(Area(area)));
        }
    }

    #[test]
    fn zeros_take_no_room() {
        let mut area = vec![0; 2688];
        area[512] = 3;
        assert!(written(&Area(area)).len() < 24);
    }

    #[test]
    fn bytes_as_they_are_can_be_read() {
        assert_eq!(read(&written(&Bytes::new(&[1, 0, 0, 2]))), Ok(Area(vec![1, 0, 0, 2])));
    }

    #[test]
    fn runs_without_a_place_are_refused() {
        let array = |len: u64, runs: &[(u64, &[u8])]| {
            let mut array = vec![ciborium::Value::from(len)];
            for (offset, run) in runs {
                array.extend([ciborium::Value::from(*offset), ciborium::Value::Bytes(run.to_vec())]);
            }
            written(&ciborium::Value::Array(array))
        };
        assert_eq!(read(&array(4, &[(0, &[1]), (3, &[2])])), Ok(Area(vec![1, 0, 0, 2])));
        assert!(read(&array(4, &[(3, &[1, 2])])).is_err());
        assert!(read(&array(4, &[(2, &[1]), (0, &[1])])).is_err());
        assert!(read(&array(4, &[(2, &[1, 1]), (3, &[1])])).is_err());
        assert!(read(&array(4, &[(u64::MAX, &[1, 1])])).is_err());
        assert!(read(&array(u64::MAX, &[])).is_err());
        let without_run = ciborium::Value::Array(vec![4.into(), 0.into()]);
        assert!(read(&written(&without_run)).is_err());
        assert!(read(&written(&ciborium::Value::Array(Vec::new()))).is_err());
    }
}
