//! May this recipient? The one oracle that RCPT, VRFY, checkaddr and deliver share.
