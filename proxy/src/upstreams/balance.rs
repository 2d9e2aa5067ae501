//! Which of several servers gets the next request.
//!
//! The caller decides who is eligible (health, backups, servers tried already); here is only the choice. A choice never
//! allocates, apart from what the caller hands in.

use std::cmp::Ordering;

use parking_lot::Mutex;
use selvedge_schema::{Balance, Server};
use sha2::{Digest, Sha256};

/// A server that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Position in the upstream's list of servers.
    pub(super) index: usize,
    /// At least 1.
    pub(super) weight: u32,
    /// Requests it is answering now.
    pub(super) in_flight: usize,
}

#[derive(Debug)]
pub(super) enum Balancer {
    RoundRobin(SmoothRoundRobin),
    Random,
    LeastConnections(SmoothRoundRobin),
    ConsistentHash(Ring),
}

impl Balancer {
    pub(super) fn new(balance: Balance, servers: &[Server]) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(SmoothRoundRobin::new(servers.len())),
            Balance::Random => Self::Random,
            Balance::LeastConnections => Self::LeastConnections(SmoothRoundRobin::new(servers.len())),
            Balance::ConsistentHash => Self::ConsistentHash(Ring::new(servers)),
        }
    }

    /// The index of one of `candidates`; `None` when there are none.
    pub(super) fn choose(&self, candidates: &[Candidate], hash_key: &[u8]) -> Option<usize> {
        match self {
            Self::RoundRobin(turns) => turns.choose(candidates.iter()),
            Self::Random => random(candidates),
            Self::LeastConnections(turns) => {
                let least = candidates.iter().min_by(|a, b| by_load(a, b))?;
                turns.choose(candidates.iter().filter(|c| by_load(c, least) == Ordering::Equal))
            }
            Self::ConsistentHash(ring) => ring.choose(candidates, hash_key),
        }
    }
}

/// By requests in flight per unit of weight, without dividing.
fn by_load(a: &Candidate, b: &Candidate) -> Ordering {
    let scaled = |load: &Candidate, other: &Candidate| load.in_flight as u128 * u128::from(other.weight);
    scaled(a, b).cmp(&scaled(b, a))
}

fn random(candidates: &[Candidate]) -> Option<usize> {
    let total: u64 = candidates.iter().map(|c| u64::from(c.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut ticket = fastrand::u64(..total);
    for candidate in candidates {
        match ticket.checked_sub(u64::from(candidate.weight)) {
            Some(rest) => ticket = rest,
            None => return Some(candidate.index),
        }
    }
    None
}

/// nginx's smooth weighted round robin: weights 5, 1, 1 give a a b a c a a, not a a a a a b c.
///
/// Every candidate's credit grows by its weight; the richest is chosen and pays the sum of all weights.
#[derive(Debug)]
pub(super) struct SmoothRoundRobin {
    credit: Mutex<Vec<i64>>,
}

impl SmoothRoundRobin {
    fn new(servers: usize) -> Self {
        Self {
            credit: Mutex::new(vec![0; servers]),
        }
    }

    fn choose<'a>(&self, candidates: impl Iterator<Item = &'a Candidate>) -> Option<usize> {
        let mut credit = self.credit.lock();
        let mut total = 0;
        let mut best: Option<usize> = None;
        for candidate in candidates {
            let weight = i64::from(candidate.weight);
            total += weight;
            credit[candidate.index] += weight;
            if best.is_none_or(|best| credit[candidate.index] > credit[best]) {
                best = Some(candidate.index);
            }
        }
        let best = best?;
        credit[best] -= total;
        Some(best)
    }
}

/// Ketama-like consistent hashing: every server owns points on a ring of 64-bit hashes, a key belongs to the next point
/// clockwise whose server is eligible. A server that leaves moves only its own keys. The points depend on nothing but the
/// servers' addresses and weights, so that all processes agree.
#[derive(Debug)]
pub(super) struct Ring {
    /// Sorted by hash: (hash, index of the server).
    points: Vec<(u64, usize)>,
}

/// Points per unit of weight. 160 (as in ketama) keep the shares of equal servers within some 10 % of each other.
const POINTS_PER_WEIGHT: u64 = 160;

/// Bound of the ring, 16 MiB; above it all servers get proportionally fewer points.
const MAX_POINTS: u64 = 1 << 20;

impl Ring {
    fn new(servers: &[Server]) -> Self {
        let wanted: u64 = servers.iter().map(|s| u64::from(s.weight) * POINTS_PER_WEIGHT).sum();
        let shrink = wanted.div_ceil(MAX_POINTS).max(1);
        let mut points = Vec::new();
        for (index, server) in servers.iter().enumerate() {
            let own = (u64::from(server.weight) * POINTS_PER_WEIGHT / shrink).max(1);
            points.extend((0..own).map(|point| (hash(&[server.address.as_bytes(), &point.to_be_bytes()]), index)));
        }
        points.sort_unstable();
        Self { points }
    }

    fn choose(&self, candidates: &[Candidate], key: &[u8]) -> Option<usize> {
        if candidates.is_empty() {
            return None;
        }
        let key = hash(&[key]);
        let start = self.points.partition_point(|(hash, _)| *hash < key);
        let (before, after) = self.points.split_at(start);
        let clockwise = after.iter().chain(before).map(|(_, index)| *index);
        clockwise
            .into_iter()
            .find(|index| candidates.iter().any(|c| c.index == *index))
    }
}

/// The first eight bytes of SHA-256, with the length of each part so that no two lists of parts collide.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize()[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(weights: &[u32]) -> Vec<Server> {
        let server = |(i, weight): (usize, &u32)| Server {
            address: format!("10.0.0.{i}:80"),
            weight: *weight,
            backup: false,
        };
        weights.iter().enumerate().map(server).collect()
    }

    fn candidates(weights: &[u32], in_flight: &[usize]) -> Vec<Candidate> {
        let candidate = |(index, (weight, in_flight)): (usize, (&u32, &usize))| Candidate {
            index,
            weight: *weight,
            in_flight: *in_flight,
        };
        weights.iter().zip(in_flight).enumerate().map(candidate).collect()
    }

    fn turns(balance: Balance, weights: &[u32], in_flight: &[usize], expected: &[usize]) {
        let balancer = Balancer::new(balance, &servers(weights));
        let candidates = candidates(weights, in_flight);
        let chosen: Vec<_> = expected
            .iter()
            .map(|_| balancer.choose(&candidates, b"").unwrap())
            .collect();
        assert_eq!(chosen, expected, "{balance:?} {weights:?} {in_flight:?}");
    }

    #[test]
    fn round_robin_is_smooth() {
        turns(Balance::RoundRobin, &[1, 1, 1], &[0, 9, 0], &[0, 1, 2, 0, 1, 2]);
        turns(Balance::RoundRobin, &[5, 1, 1], &[0, 0, 0], &[0, 0, 1, 0, 2, 0, 0]);
        turns(Balance::RoundRobin, &[2, 1], &[0, 0], &[0, 1, 0, 0, 1, 0]);
    }

    #[test]
    fn least_connections_weighs_and_takes_turns_among_equals() {
        turns(Balance::LeastConnections, &[1, 1, 1], &[2, 1, 3], &[1, 1]);
        turns(Balance::LeastConnections, &[4, 1], &[3, 1], &[0, 0]);
        turns(Balance::LeastConnections, &[4, 1], &[5, 1], &[1, 1]);
        turns(Balance::LeastConnections, &[1, 1, 1], &[0, 5, 0], &[0, 2, 0, 2]);
    }

    #[test]
    fn random_follows_the_weights() {
        let weights = [1, 3];
        let balancer = Balancer::new(Balance::Random, &servers(&weights));
        let candidates = candidates(&weights, &[0, 0]);
        let second = (0..4000)
            .filter(|_| balancer.choose(&candidates, b"") == Some(1))
            .count();
        // 3000 expected, standard deviation 27: nine of them.
        assert!((2750..3250).contains(&second), "{second} of 4000");
    }

    #[test]
    fn nobody_to_choose() {
        for balance in [
            Balance::RoundRobin,
            Balance::Random,
            Balance::LeastConnections,
            Balance::ConsistentHash,
        ] {
            assert_eq!(
                Balancer::new(balance, &servers(&[1])).choose(&[], b"key"),
                None,
                "{balance:?}"
            );
        }
    }

    fn owners(ring: &Ring, candidates: &[Candidate]) -> Vec<usize> {
        (0..10_000_u32)
            .map(|key| ring.choose(candidates, &key.to_be_bytes()).unwrap())
            .collect()
    }

    #[test]
    fn a_server_that_leaves_moves_only_its_share() {
        let weights = [1, 1, 2, 1];
        let ring = Ring::new(&servers(&weights));
        let all = candidates(&weights, &[0; 4]);
        let before = owners(&ring, &all);

        // Unhealthy: skipped on the same ring. Removed: a ring without it. Both move the same keys.
        let without: Vec<_> = all.iter().copied().filter(|c| c.index != 1).collect();
        let after = owners(&ring, &without);
        for (before, after) in before.iter().zip(&after) {
            assert!(
                before == after || *before == 1,
                "a key of server {before} moved to {after}"
            );
        }
        let mut fewer = servers(&weights);
        fewer.remove(1);
        let removed = Ring::new(&fewer);
        let three = candidates(&[1, 2, 1], &[0; 3]);
        let original = |index: usize| if index == 0 { 0 } else { index + 1 };
        assert_eq!(
            after,
            owners(&removed, &three).into_iter().map(original).collect::<Vec<_>>()
        );

        for (index, weight) in weights.iter().enumerate() {
            let share = before.iter().filter(|owner| **owner == index).count() as f64 / 10_000.0;
            let fair = f64::from(*weight) / 5.0;
            assert!(
                (share - fair).abs() < 0.25 * fair,
                "server {index} has {share} of the keys, fair is {fair}"
            );
        }
    }

    #[test]
    fn huge_weights_do_not_make_a_huge_ring() {
        let ring = Ring::new(&servers(&[u32::MAX, 1]));
        assert!(ring.points.len() as u64 <= MAX_POINTS + 2, "{}", ring.points.len());
        assert!(ring.points.iter().any(|(_, index)| *index == 1));
    }
}
