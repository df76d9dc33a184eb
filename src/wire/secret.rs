//! Octets that must not be logged and are not left lying about: passwords on their way to be checked.

/// A secret: not shown by `Debug`, overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// Overwrites a secret that is no longer needed.
pub fn wipe(secret: &mut [u8]) {
    secret.fill(0);
    // Without a reader the compiler would leave the writing out.
    std::hint::black_box(secret);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wiped_secret_is_gone() {
        let mut secret = *b"sesame";
        wipe(&mut secret);
        assert_eq!(secret, [0; 6]);
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert!(!format!("{:?}", Secret(b"115".to_vec())).contains("115"));
        assert!(!format!("{:?}", Secret(vec![115])).contains("115"));
    }
}
