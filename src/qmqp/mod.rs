//! QMQP (cr.yp.to/proto/qmqp.html): one request, one reply, so no session.
