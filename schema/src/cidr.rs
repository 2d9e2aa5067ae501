//! A range of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address without a prefix length.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address with the bits after the prefix cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    prefix_bits: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("not an IP address")]
    Address,
    #[error("the prefix length must be a number from 0 to {max}")]
    Prefix { max: u8 },
    #[error("bits are set after the prefix; the range is {network}")]
    HostBits { network: Cidr },
}

impl Cidr {
    /// True for an address in the range. An IPv4 address mapped into IPv6 (`::ffff:10.0.0.1`) counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                cleared(address.to_canonical(), self.prefix_bits) == self.network
            }
            _ => false,
        }
    }
}

fn cleared(address: IpAddr, prefix_bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix_bits)).unwrap_or(0);
            IpAddr::V4((a.to_bits() & mask).into())
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix_bits)).unwrap_or(0);
            IpAddr::V6((a.to_bits() & mask).into())
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Address)?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => max,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|bits| *bits <= max)
                .ok_or(CidrError::Prefix { max })?,
            Some(_) => return Err(CidrError::Prefix { max }),
        };
        let cidr = Cidr {
            network: cleared(address, prefix_bits),
            prefix_bits,
        };
        if cidr.network != address {
            return Err(CidrError::HostBits { network: cidr });
        }
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_parse_and_print() {
        let check = |text: &str, expected: &str| {
            let got = text.parse::<Cidr>().map_or_else(|e| e.to_string(), |c| c.to_string());
            assert_eq!(got, expected, "{text}");
        };
        check("10.0.0.0/8", "10.0.0.0/8");
        check("0.0.0.0/0", "0.0.0.0/0");
        check("127.0.0.1", "127.0.0.1/32");
        check("::1", "::1/128");
        check("2001:db8::/32", "2001:db8::/32");
        check("::/0", "::/0");
        check("10.0.0.1/8", "bits are set after the prefix; the range is 10.0.0.0/8");
        check("10.0.0.0/33", "the prefix length must be a number from 0 to 32");
        check("10.0.0.0/", "the prefix length must be a number from 0 to 32");
        check("10.0.0.0/+8", "the prefix length must be a number from 0 to 32");
        check("::/129", "the prefix length must be a number from 0 to 128");
        check("localhost", "not an IP address");
        check("010.0.0.0/8", "not an IP address");
    }

    #[test]
    fn ranges_contain() {
        let check = |range: &str, address: &str, expected: bool| {
            let range: Cidr = range.parse().unwrap();
            assert_eq!(
                range.contains(address.parse().unwrap()),
                expected,
                "{address} in {range}"
            );
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.0", false);
        check("10.0.0.0/8", "::ffff:10.1.2.3", true);
        check("10.0.0.0/8", "::1", false);
        check("0.0.0.0/0", "255.255.255.255", true);
        check("0.0.0.0/0", "::1", false);
        check("::/0", "::1", true);
        check("127.0.0.1", "127.0.0.2", false);
        check("2001:db8::/32", "2001:db8:ffff::1", true);
    }
}
