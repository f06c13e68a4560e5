//! Requests become packets: what one message of the broker carries.
//!
//! Lines of all requests that are published together share packets by shard, each at most a frame
//! long. A request with a key has packets of its own, since their ids are its own: the same request
//! makes the same packets, whoever publishes it.

use std::collections::BTreeMap;

use super::id::{self, PacketId, Session};
use super::topology::Format;
use crate::broker::Unit;
use crate::broker::frame::LINES_BYTES_MAX;
use crate::message::{Lines, ShardKey};

/// What one message of the broker carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) key: ShardKey,
    pub(super) id: PacketId,
    pub(super) body: Vec<u8>,
}

/// Gives packets their ids, for as long as the publisher lives.
#[derive(Debug)]
pub(super) struct Packing {
    session: Session,
    format: Format,
    next: BTreeMap<ShardKey, u64>,
}

impl Packing {
    /// A session, whose name nobody else has.
    pub(super) const fn new(session: Session, format: Format) -> Self {
        Self { session, format, next: BTreeMap::new() }
    }

    /// The packets of requests that are published together.
    pub(super) fn pack<'a>(&mut self, units: impl IntoIterator<Item = &'a Unit>) -> Vec<Packet> {
        let (mut packets, mut shared) = (Vec::new(), BTreeMap::<ShardKey, Vec<&[u8]>>::new());
        for unit in units {
            let parts = unit.parts.iter().filter(|(_, lines)| lines.count > 0);
            match &unit.key {
                None => {
                    parts.for_each(|(key, lines)| {
                        shared.entry(*key).or_default().push(&lines.bytes);
                    });
                }
                Some(sent) => {
                    let head = id::of_key(sent);
                    for (key, lines) in parts {
                        let bodies = self.bodies(*key, &[&lines.bytes]).into_iter();
                        packets.extend((0..).zip(bodies).map(|(number, body)| {
                            let id = PacketId::OfKey(head, number);
                            Packet { key: *key, id, body }
                        }));
                    }
                }
            }
        }
        for (key, lines) in shared {
            for body in self.bodies(key, &lines) {
                let next = self.next.entry(key).or_default();
                let id = PacketId::OfSession(self.session, *next);
                *next += 1;
                packets.push(Packet { key, id, body });
            }
        }
        packets
    }

    fn bodies(&self, key: ShardKey, lines: &[&[u8]]) -> Vec<Vec<u8>> {
        match self.format.of(key.topic) {
            Format::Packed => in_frames(lines),
            Format::Interop => one_each(lines),
        }
    }
}

/// As few bodies as hold all lines, none longer than a frame's lines.
fn in_frames(lines: &[&[u8]]) -> Vec<Vec<u8>> {
    let (mut bodies, mut open) = (Vec::new(), Vec::new());
    for mut rest in lines.iter().copied() {
        while !rest.is_empty() {
            let within = rest.get(..LINES_BYTES_MAX - open.len()).unwrap_or(rest);
            // A line that fits into no frame was refused before.
            let whole = memchr::memrchr(b'\n', within).map_or(0, |last| last + 1);
            if whole == 0 && !open.is_empty() {
                bodies.push(std::mem::take(&mut open));
                continue;
            }
            let (taken, left) = rest.split_at(if whole == 0 { rest.len() } else { whole });
            open.extend_from_slice(taken);
            rest = left;
        }
    }
    if !open.is_empty() {
        bodies.push(open);
    }
    bodies
}

/// A body for each line, without its end.
fn one_each(lines: &[&[u8]]) -> Vec<Vec<u8>> {
    let each = lines.iter().flat_map(|lines| lines.split(|byte| *byte == b'\n'));
    each.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

/// A unit's lines in all shards, in bytes.
pub(super) fn bytes(unit: &Unit) -> usize {
    unit.parts.iter().map(|(_, lines): &(ShardKey, Lines)| lines.bytes.len()).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::broker::IdempotencyKey;
    use crate::message::{ShardId, Topic};

    fn key(shard: u16) -> ShardKey {
        ShardKey::new(Topic::Messages, ShardId(shard))
    }

    fn unit(shard: u16, text: &str, named: Option<&str>) -> Unit {
        let count = u32::try_from(text.lines().count()).unwrap();
        let lines = Lines { bytes: text.as_bytes().to_vec(), count };
        let key = |name: &str| IdempotencyKey {
            principal: Arc::from("ann"),
            key: name.to_owned(),
            fingerprint: [0; 32],
        };
        Unit { parts: vec![(self::key(shard), lines)], key: named.map(key) }
    }

    fn bodies(packets: &[Packet]) -> Vec<(u16, String, String)> {
        let text = |packet: &Packet| String::from_utf8(packet.body.clone()).unwrap();
        packets.iter().map(|p| (p.key.shard.0, p.id.to_string(), text(p))).collect()
    }

    #[test]
    fn requests_share_packets_and_a_key_has_its_own() {
        let mut packing = Packing::new([0; 16], Format::Packed);
        let units = [
            unit(1, "a\nb\n", None),
            unit(0, "c\n", None),
            unit(1, "d\n", Some("k")),
            unit(1, "e\n", None),
        ];
        let session = "s.00000000000000000000000000000000";
        let packets = packing.pack(&units);
        let head = packets[0].id.to_string();
        assert!(head.starts_with("k."), "{head}");
        let packed = bodies(&packets);
        assert_eq!(packed[0], (1, head, "d\n".to_owned()));
        assert_eq!(packed[1], (0, format!("{session}.0"), "c\n".to_owned()));
        assert_eq!(packed[2], (1, format!("{session}.0"), "a\nb\ne\n".to_owned()));
        let again = packing.pack(&units);
        assert_eq!(again[0].id, packets[0].id);
        assert_eq!(again[2].id.to_string(), format!("{session}.1"));
    }

    #[test]
    fn between_systems_each_entry_travels_alone() {
        let mut packing = Packing::new([0; 16], Format::Interop);
        let packets = packing.pack(&[unit(3, "{\"a\":1}\n{\"b\":2}\n", None)]);
        let texts: Vec<_> = bodies(&packets).into_iter().map(|(.., text)| text).collect();
        assert_eq!(texts, ["{\"a\":1}", "{\"b\":2}"]);
        assert_ne!(packets[0].id, packets[1].id);
    }

    #[test]
    fn between_systems_telemetry_is_packed_all_the_same() {
        let mut packing = Packing::new([0; 16], Format::Interop);
        let telemetry = ShardKey::new(Topic::Telemetry, ShardId(3));
        let lines = Lines { bytes: b"{}\n{}\n".to_vec(), count: 2 };
        let packets = packing.pack(&[Unit { parts: vec![(telemetry, lines)], key: None }]);
        assert_eq!((packets.len(), packets[0].key), (1, telemetry));
    }

    proptest! {
        #[test]
        fn no_line_is_cut_lost_or_moved(lengths in prop::collection::vec(1_usize..30_000, 0..40)) {
            let lines: Vec<_> = lengths.iter().map(|n| format!("{}\n", "x".repeat(*n))).collect();
            let all = lines.concat();
            let units: Vec<_> = lines.chunks(3).map(|some| unit(0, &some.concat(), None)).collect();
            let packets = Packing::new([0; 16], Format::Packed).pack(&units);
            let joined = packets.iter().map(|p| p.body.as_slice()).collect::<Vec<_>>().concat();
            prop_assert_eq!(joined, all.as_bytes());
            for packet in &packets {
                prop_assert!(packet.body.len() <= LINES_BYTES_MAX && packet.body.ends_with(b"\n"));
            }
        }
    }
}
