//! SMTP: what of RFC 5321 and its extensions we speak, what we leave out, and why.
