//! The Received field we add (RFC 5321 section 4.4).

/// The protocol of the `with` clause (RFC 3848).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HELO.
    Smtp,
    /// EHLO.
    Esmtp,
    /// QMQP.
    Qmqp,
    /// A program on this machine; no client to name.
    Local,
}

/// Where a message came from, for the `from` clause. Every text in it is hostile and is written cleaned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// What the client called itself (HELO, EHLO), if it did.
    pub helo: Option<Vec<u8>>,
    /// Its forward-confirmed name, if it has one.
    pub name: Option<String>,
    /// Its address, or `stdin`, or `unknown`.
    pub address: String,
}
