//! Numbers and octets in the blocks of an index, as short as they are.

/// Appends a number as [`take_number`] reads it: seven bits an octet, least first.
pub fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// Reads a number and moves on.
pub fn take_number(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (octet, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Appends octets as [`take_octets`] reads them: their number, and they.
pub fn put_octets(octets: &[u8], out: &mut Vec<u8>) {
    put_number(octets.len() as u64, out);
    out.extend_from_slice(octets);
}

/// Reads octets and moves on.
pub fn take_octets<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(from)?).ok()?;
    let (octets, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(octets)
}
