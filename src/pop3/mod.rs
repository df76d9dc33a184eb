//! POP3: what of RFC 1939 and its extensions we speak, what we leave out, and why.
