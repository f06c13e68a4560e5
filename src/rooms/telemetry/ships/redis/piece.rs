//! Some lines of a batch, by ship: what is pushed at once.

use std::collections::HashMap;
use std::io::{self, BufRead};

use crate::rooms::telemetry::datagram;
use crate::rooms::telemetry::ship::ShipName;
use crate::rooms::telemetry::ships::commits::Place;

/// Lines of a piece, and bytes of them, at most, but for the last line: what Redis does at once it
/// does before anything else.
const LINES_MAX: u64 = 2000;
const BYTES_MAX: usize = 512 * 1024;

/// Consecutive lines of a shard.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// The place where it begins, and the one behind it.
    pub(super) from: Place,
    pub(super) to: Place,
    /// Its datagrams, as they were received, in their order.
    pub(super) ships: Vec<(ShipName, Vec<Vec<u8>>)>,
}

impl Piece {
    /// Nothing, in the place of what is gone.
    pub(super) const fn gap(from: Place, to: Place) -> Self {
        Self { from, to, ships: Vec::new() }
    }

    /// The next lines of a batch; all of them are read when it ends at `end`.
    pub(super) fn read(lines: &mut dyn BufRead, from: Place, end: Place) -> io::Result<Self> {
        let mut piece = Self::gap(from, Place { lines: from.lines, ..end });
        let (mut places, mut line, mut bytes) = (HashMap::new(), Vec::new(), 0);
        while piece.to.lines < from.lines + LINES_MAX && bytes < BYTES_MAX {
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                // Whatever it held, it is done with.
                piece.to = end;
                break;
            }
            bytes += line.len();
            piece.to.lines += 1;
            piece.take(line.trim_ascii_end(), &mut places);
        }
        Ok(piece)
    }

    fn take(&mut self, line: &[u8], places: &mut HashMap<ShipName, usize>) {
        let Some((ship, _)) = datagram::read_line(line) else {
            return tracing::warn!("a line of telemetry names no ship, and is in no list");
        };
        let datagram = as_received(&ship, line);
        let place = *places.entry(ship).or_insert_with_key(|ship| {
            self.ships.push((ship.clone(), Vec::new()));
            self.ships.len() - 1
        });
        if let Some((_, datagrams)) = self.ships.get_mut(place) {
            datagrams.push(datagram);
        }
    }
}

/// The object that a ship has sent: the line without the ship, which the key says.
fn as_received(ship: &ShipName, line: &[u8]) -> Vec<u8> {
    let head = datagram::line_head(ship);
    match line.strip_prefix(head.as_bytes()) {
        Some(members) => [b"{", members].concat(),
        None => line.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ship: &str, value: u32) -> String {
        format!(
            "{{\"ship\":\"{ship}\",\"timestamp\":\"2026-11-22T07:30:00Z\",\"value\":{value}}}\n"
        )
    }

    #[test]
    fn a_batch_is_cut_into_pieces_and_none_of_its_lines_is_lost() {
        let all: String = (0..4_500).map(|n| line(["a", "b"][n as usize % 2], n)).collect();
        let mut lines = all.as_bytes();
        let (mut from, end) = (Place { batch: 3, lines: 100 }, Place { batch: 7, lines: 4_600 });
        let mut found = [Vec::new(), Vec::new()];
        let mut ends = Vec::new();
        while from != end {
            let piece = Piece::read(&mut lines, from, end).unwrap();
            assert_eq!(piece.from, from);
            for (ship, datagrams) in piece.ships {
                found[usize::from(ship.as_str() == "b")].extend(datagrams);
            }
            from = piece.to;
            ends.push(from.lines);
        }
        assert_eq!(ends, [2_100, 4_100, 4_600]);
        for (turn, datagrams) in found.iter().enumerate() {
            let values = (0..4_500_usize).filter(|n| n % 2 == turn);
            let expected: Vec<_> = values
                .map(|n| format!("{{\"timestamp\":\"2026-11-22T07:30:00Z\",\"value\":{n}}}"))
                .map(String::into_bytes)
                .collect();
            assert_eq!(*datagrams, expected);
        }
    }

    #[test]
    fn a_datagram_is_pushed_as_it_was_received() {
        let ship: ShipName = "The \"E\"".parse().unwrap();
        let received = br#"{"timestamp": "2026-11-22T07:30:00+00:00", "value": 5.0}"#;
        let mut line = Vec::new();
        datagram::append_line(&mut line, &datagram::line_head(&ship), received);
        assert_eq!(as_received(&ship, line.trim_ascii_end()), received);
        // Of somebody else, whose members stand otherwise.
        let other = br#"{"value":5,"ship":"The \"E\"","timestamp":"2026-11-22T07:30:00Z"}"#;
        assert_eq!(as_received(&ship, other), other);
    }
}
