use super::*;
use proptest::prelude::*;

fn exchange(mechanism: Mechanism) -> Exchange {
    Exchange::new(mechanism, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned(), "mx.example")
}

fn password(next: Result<Next, Malformed>) -> (Vec<u8>, Vec<u8>) {
    match next {
        Ok(Next::Check(Credentials { name, proof: Proof::Password(secret) })) => (name, secret.0.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn plain_is_that_of_rfc_4616() {
    for (response, name, secret) in [
        (&b"\0tim\0tanstaaftanstaaf"[..], "tim", "tanstaaftanstaaf"),
        (b"tim\0tim\0x", "tim", "x"),
        (b"\0tim\0", "tim", ""),
    ] {
        let mut asked = exchange(Mechanism::Plain);
        assert_eq!(asked.begin(None), Ok(Next::Challenge(Vec::new())));
        for next in [asked.take(response), exchange(Mechanism::Plain).begin(Some(response))] {
            assert_eq!(password(next), (name.into(), secret.into()));
        }
    }
    for response in [&b""[..], b"tim", b"tim\0x", b"Ursel\0\0xipj3plmq", b"\0\0x", b"\0tim\0x\0y"] {
        assert_eq!(exchange(Mechanism::Plain).begin(Some(response)), Err(Malformed), "{}", response.escape_ascii());
    }
}

/// The syntax is right (RFC 4616 section 2, RFC 5802 section 7), and nobody is let in.
#[test]
fn who_would_act_for_another_user_gives_no_proof() {
    let for_another = |name: &str| Ok(Next::Check(Credentials { name: name.into(), proof: Proof::ForAnother }));
    assert_eq!(exchange(Mechanism::Plain).begin(Some(b"Ursel\0Kurt\0xipj3plmq")), for_another("Kurt"));
    let mut begun = exchange(Mechanism::ScramSha256);
    let Ok(Next::Challenge(_)) = begun.begin(Some(b"n,a=other,n=user,r=x")) else { panic!() };
    let (header, proof) = (encode(b"n,a=other,"), encode(&[7; 32]));
    let last = format!("c={header},r=x%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p={proof}");
    assert_eq!(begun.take(last.as_bytes()), for_another("user"));
    assert_eq!(Proof::ForAnother.fits(b""), None);
}

#[test]
fn login_asks_twice_or_once() {
    let mut asked = exchange(Mechanism::Login);
    assert_eq!(asked.begin(None), Ok(Next::Challenge(b"Username:".to_vec())));
    assert_eq!(asked.take(b"tim"), Ok(Next::Challenge(b"Password:".to_vec())));
    assert_eq!(password(asked.take(b" x ")), (b"tim".to_vec(), b" x ".to_vec()));
    assert_eq!(asked.take(b"x"), Err(Malformed), "it is over");
    let mut initial = exchange(Mechanism::Login);
    assert_eq!(initial.begin(Some(b"tim")), Ok(Next::Challenge(b"Password:".to_vec())));
}

#[test]
fn cram_md5_is_that_of_rfc_2195() {
    let challenge = b"<1896.697170952@postoffice.reston.mci.net>".to_vec();
    let mut rfc = Exchange::new(Mechanism::CramMd5, "1896.697170952".to_owned(), "postoffice.reston.mci.net");
    assert_eq!(rfc.begin(None), Ok(Next::Challenge(challenge)));
    let Ok(Next::Check(credentials)) = rfc.take(b"tim b913a602c7eda7a495b4e6e7334d3890") else { panic!() };
    assert_eq!(credentials.name, b"tim");
    assert_eq!(credentials.proof.fits(b"tanstaaftanstaaf"), Some(Vec::new()));
    assert_eq!(credentials.proof.fits(b"tanstaaftanstaag"), None);
    for response in [&b"tim"[..], b"tim b913", b"tim B913A602C7EDA7A495B4E6E7334D3890", b""] {
        let mut exchange = exchange(Mechanism::CramMd5);
        exchange.begin(None).unwrap();
        assert_eq!(exchange.take(response), Err(Malformed));
    }
    assert_eq!(exchange(Mechanism::CramMd5).begin(Some(b"tim")), Err(Malformed), "the server speaks first");
}

#[test]
fn apop_is_that_of_rfc_1939() {
    let digest = credentials::hexadecimal(b"c4c9334bac560ecc979e58001b3e22fb").unwrap();
    let proof = Proof::Apop { stamp: b"<1896.697170952@dbc.mtview.ca.us>".to_vec(), digest };
    assert_eq!(proof.fits(b"tanstaaf"), Some(Vec::new()));
    assert_eq!(proof.fits(b"tanstaa"), None);
}

/// The exchange of RFC 7677 section 3, whose salt is its server's.
#[test]
fn scram_sha_256_computes_what_rfc_7677_does() {
    let auth_message = b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
        .to_vec();
    let proof = Proof::ScramSha256 {
        salt: decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().0.as_slice().try_into().unwrap(),
        auth_message,
        proof: decode(b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap().0.as_slice().try_into().unwrap(),
    };
    let signature = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_vec();
    assert_eq!(proof.fits(b"pencil"), Some(signature));
    assert_eq!(proof.fits(b"pencils"), None);
}

#[test]
fn scram_messages_are_read_as_rfc_5802_writes_them() {
    let mut begun = exchange(Mechanism::ScramSha256);
    let Ok(Next::Challenge(challenge)) = begun.begin(Some(b"n,,n=us=2Cer=3D,r=rOprNGfwEbeRWgbNEkqO")) else { panic!() };
    let challenge = String::from_utf8(challenge).unwrap();
    let (nonce, salt) = challenge.strip_suffix(",i=4096").unwrap().split_once(",s=").unwrap();
    assert_eq!(nonce, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
    assert_eq!(decode(salt.as_bytes()).unwrap().0.len(), 16);
    let finish = format!("c=biws,{nonce},p={}", encode(&[7; 32]));
    let Ok(Next::Check(credentials)) = begun.take(finish.as_bytes()) else { panic!() };
    assert_eq!(credentials.name, b"us,er=");
    let Proof::ScramSha256 { auth_message, proof, .. } = credentials.proof else { panic!() };
    assert_eq!(proof, [7; 32]);
    let expected = format!("n=us=2Cer=3D,r=rOprNGfwEbeRWgbNEkqO,{challenge},c=biws,{nonce}");
    assert_eq!(String::from_utf8(auth_message).unwrap(), expected);
}

#[test]
fn scram_messages_that_are_wrong_end_it() {
    for first in [
        "",
        "n",
        "n,,",
        "n,,n=user",
        "n,,r=x,n=user",
        "p=tls-unique,,n=user,r=x",
        "n,,m=x,n=user,r=x",
        "n,,n=,r=x",
        "n,,n=us=er,r=x",
        "n,,n=user,r=",
        "x,,n=user,r=x",
        "n,,n=user,r=a b",
    ] {
        assert_eq!(exchange(Mechanism::ScramSha256).begin(Some(first.as_bytes())), Err(Malformed), "{first}");
    }
    let proof = encode(&[7; 32]);
    let nonce = "x%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    for last in [
        String::new(),
        format!("c=biws,r={nonce}"),
        format!("c=biws,r=y,p={proof}"),
        format!("c=eSws,r={nonce},p={proof}"),
        format!("c=biws,r={nonce},p=AAAA"),
        format!("r={nonce},c=biws,p={proof}"),
    ] {
        let mut begun = exchange(Mechanism::ScramSha256);
        begun.begin(Some(b"n,,n=user,r=x")).unwrap();
        assert_eq!(begun.take(last.as_bytes()), Err(Malformed), "{last}");
    }
}

#[test]
fn lines_are_base64_and_an_equals_sign_is_nothing() {
    assert_eq!(decode_initial(b"=").unwrap().0, b"");
    assert_eq!(decode(b"AHg=").unwrap().0, b"\0x");
    for wrong in [&b"="[..], b"A", b"AHg", b"AHh=", b"AA=", b"AHgA=", b"AH g=", b"AHg=AHg=", b"*", b"\xff"] {
        assert_eq!(decode(wrong), Err(Malformed), "{}", wrong.escape_ascii());
    }
}

#[test]
fn only_what_is_offered_is_named() {
    assert_eq!(Offered { plain: true, secrets: true }.names(), "SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN");
    assert_eq!(Offered { plain: true, secrets: false }.names(), "PLAIN LOGIN");
    assert_eq!(Offered::default().names(), "");
    assert_eq!(Mechanism::named(b"scram-sha-256"), Some(Mechanism::ScramSha256));
    assert_eq!(Mechanism::named(b"SCRAM-SHA-1"), None);
}

proptest! {
    #[test]
    fn no_response_breaks_an_exchange(which in 0..4_usize, responses: Vec<Vec<u8>>, initial: bool) {
        let mut exchange = exchange(Mechanism::ALL[which]);
        let mut responses = responses.iter();
        let mut next = exchange.begin(if initial { responses.next().map(Vec::as_slice) } else { None });
        for response in responses {
            if !matches!(next, Ok(Next::Challenge(_))) {
                break;
            }
            next = exchange.take(response);
        }
    }
}
