"""What is said to an SMTP server, line by line, and the codes that may come back: the cases of smtp_conformance.

A vector is a name and a list of (line, codes). `{sender}`, `{recipient}`, `{domain}` and `{other}` stand for addresses
of the door it is said to. Each vector has a connection of its own, past EHLO and, at the bridge, AUTH. Lines are sent
one after the other as UTF-8; a line that is a `bytes` is sent as it stands, without CRLF. Codes are those of RFC 5321
and its extensions, or 0 where the server may hang up.
"""

SYNTAX = (500, 501, 502, 503, 550, 553, 555)
NO_RELAY = (501, 550, 551, 553, 554)
BEGIN = [("MAIL FROM:<{sender}>", 250), ("RCPT TO:<{recipient}>", 250)]


def _each(name, lines, codes, before=()):
    """One vector for each line."""
    return [(f"{name} {line!r:.60}", [*before, (line, codes)]) for line in lines]


ORDER = [
    ("DATA before MAIL", [("DATA", 503)]),
    ("RCPT before MAIL", [("RCPT TO:<{recipient}>", 503)]),
    ("DATA without recipients", [("MAIL FROM:<{sender}>", 250), ("DATA", (503, 554))]),
    ("MAIL twice", [("MAIL FROM:<{sender}>", 250), ("MAIL FROM:<{sender}>", 503), ("RCPT TO:<{recipient}>", 250)]),
    ("RSET forgets", [*BEGIN, ("RSET", 250), ("DATA", (503, 554)), ("MAIL FROM:<{sender}>", 250)]),
    ("EHLO forgets", [*BEGIN, ("EHLO again.test", 250), ("DATA", (503, 554))]),
    ("HELO forgets", [*BEGIN, ("HELO again.test", 250), ("RCPT TO:<{recipient}>", 503)]),
    ("NOOP forgets nothing", [*BEGIN, ("NOOP", 250), ("VRFY x", 252), ("DATA", 354), (b"\r\n.\r\n", 250)]),
    ("a refused recipient forgets nothing", [*BEGIN, ("RCPT TO:<a@b..c>", 501), ("DATA", 354), (b"\r\n.\r\n", 250)]),
    ("QUIT within a transaction", [*BEGIN, ("QUIT", 221), ("NOOP", 0)]),
]

VERBS = (
    _each("small verb", ["NOOP", "noop", "NoOp with words", "HELP", "HELP MAIL", "RSET", "rset"], (214, 250))
    + _each("unknown verb", ["XYZZY", "", " ", "MAILFROM:<a@b.test>", "GET / HTTP/1.1", "EHLOX", "\tNOOP"], 500)
    + _each("verb not offered", ["EXPN list", "ETRN x", "TURN", "SEND FROM:<a@b>", "SOML FROM:<a@b>"], 502)
    + _each("argument that must not be", ["RSET x", "DATA x", "QUIT x", "STARTTLS x"], 501)
    + _each("argument that must be", ["EHLO", "HELO", "MAIL", "RCPT", "VRFY", "BDAT", "AUTH"], (501, 502))
    + _each("control characters", ["NO\0OP", "NOOP \x07", "NOOP\x7f", "EHLO a\x01b"], 500)
    + _each("bare CR", [b"NOOP\rRSET\r\n", b"NOOP\r\r\n", b"\rNOOP\r\n"], 500)
    + _each("long line", ["NOOP " + "x" * 5_000, "MAIL FROM:<" + "x" * 3_000 + "@b.test>"], 500)
)

BAD_SENDERS = _each(
    "sender",
    [
        "MAIL FROM:a@b.test",
        "MAIL FROM: <a@b.test>",
        "MAIL FROM:<a@b.test",
        "MAIL FROM:<a@b.test>x",
        "MAIL FROM:<a@b.test>SIZE=1",
        "MAIL FROM:<a b@c.test>",
        "MAIL FROM:<a@>",
        "MAIL FROM:<@b.test>",
        "MAIL FROM:<a@b@c.test>",
        "MAIL FROM:<a@b..test>",
        "MAIL FROM:<a@.test>",
        "MAIL FROM:<a@b.>",
        "MAIL FROM:<.a@b.test>",
        "MAIL FROM:<a.@b.test>",
        "MAIL FROM:<a..b@c.test>",
        "MAIL FROM:<a@-b.test>",
        "MAIL FROM:<a@b_c.test>",
        "MAIL FROM:<a@[999.1.1.1]>",
        "MAIL FROM:<a@[IPv6:zz::1]>",
        "MAIL FROM:<a@[192.0.2.1>",
        'MAIL FROM:<"a@b.test>',
        'MAIL FROM:<"a"b@c.test>',
        "MAIL FROM:<<a@b.test>>",
        "MAIL FROM:<postmaster>",
        "MAIL FROM:<" + "x" * 65 + "@b.test>",
        "MAIL FROM:<a@" + "d" * 64 + ".test>",
        "MAIL FROM:<a@" + ".".join(["d" * 60] * 5) + ">",
        "MAIL FROM:<a\u202eb@c.test>",
        "MAIL FROM:<a@b\u3002test>",
        b"MAIL FROM:<\xff\xfe@b.test>\r\n",
        b"MAIL FROM:<a\xc0\xafb@c.test>\r\n",
        "MAIL TO:<a@b.test>",
    ],
    SYNTAX,
)

PARAMETERS = _each(
    "parameter",
    [
        "MAIL FROM:<{sender}> SIZE=",
        "MAIL FROM:<{sender}> SIZE=-1",
        "MAIL FROM:<{sender}> SIZE=1x",
        "MAIL FROM:<{sender}> SIZE=1 SIZE=1",
        "MAIL FROM:<{sender}> SIZE=999999999999999999999",
        "MAIL FROM:<{sender}> BODY=BINARYMIME",
        "MAIL FROM:<{sender}> BODY=7BIT BODY=7BIT",
        "MAIL FROM:<{sender}> XYZZY",
        "MAIL FROM:<{sender}> RET=BODY",
        "MAIL FROM:<{sender}> ENVID=a+b",
        "MAIL FROM:<{sender}> SMTPUTF8=x",
        "MAIL FROM:<{sender}> =1",
    ],
    (501, 555),
) + [
    ("SIZE beyond the bound", [("MAIL FROM:<{sender}> SIZE=99999999999999999999", 552)]),
    ("parameters in any case", [("mail from:<{sender}> size=10 Body=8bitmime", 250)]),
]

CHUNKS = [
    ("one chunk", [*BEGIN, (b"BDAT 7 LAST\r\nhello\r\n", 250), ("DATA", (503, 554))]),
    ("an empty last chunk", [*BEGIN, (b"BDAT 7\r\nhello\r\n", 250), ("BDAT 0 LAST", 250)]),
    ("a dot is text", [*BEGIN, (b"BDAT 9 LAST\r\na\r\n.\r\nb\r\n", 250), ("NOOP", 250)]),
    ("a line end cut in two", [*BEGIN, (b"BDAT 2\r\na\r", 250), (b"BDAT 3 LAST\r\n\nb\n", (250, 550))]),
    ("chunks before MAIL", [(b"BDAT 6 LAST\r\nQUIT\r\n", 503), ("NOOP", 250)]),
    ("chunks without recipients", [("MAIL FROM:<{sender}>", 250), (b"BDAT 6\r\nQUIT\r\n", 503), ("NOOP", 250)]),
    ("DATA behind a chunk", [*BEGIN, (b"BDAT 1\r\na", 250), ("DATA", 503), ("BDAT 0 LAST", 250)]),
    ("MAIL behind a chunk", [*BEGIN, (b"BDAT 1\r\na", 250), ("MAIL FROM:<{sender}>", 503), ("RSET", 250)]),
    ("RCPT behind a chunk", [*BEGIN, (b"BDAT 1\r\na", 250), ("RCPT TO:<{recipient}>", 503), ("RSET", 250)]),
    ("RSET behind a chunk", [*BEGIN, (b"BDAT 1\r\na", 250), ("RSET", 250), (b"BDAT 6 LAST\r\nQUIT\r\n", 503)]),
    ("too large at once", [*BEGIN, ("BDAT 99999999999 LAST", 552), ("NOOP", 0)]),
    ("more digits than fit", [*BEGIN, ("BDAT 99999999999999999999", 552), ("NOOP", 0)]),
    ("commands within a chunk", [*BEGIN, (b"BDAT 12 LAST\r\nRSET\r\nQUIT\r\n", 250), ("NOOP", 250)]),
    ("a chunk behind the last", [*BEGIN, (b"BDAT 1 LAST\r\na", 250), (b"BDAT 6\r\nQUIT\r\n", 503), ("NOOP", 250)]),
] + _each("chunk", ["BDAT x", "BDAT -1", "BDAT +1", "BDAT 1 FIRST", "BDAT 1 LAST LAST", "BDAT LAST", "BDAT 0x1"], 501)

# Delivery status notifications (RFC 3461): asked for at the bridge, and offered to nobody at the MX.

REPORT_OF_MESSAGE = ["MAIL FROM:<{sender}> RET=HDRS", "MAIL FROM:<{sender}> RET=FULL ENVID=x+2By"]
REPORT_OF_RECIPIENT = [
    "RCPT TO:<{recipient}> NOTIFY=NEVER",
    "RCPT TO:<{recipient}> NOTIFY=SUCCESS,FAILURE,DELAY",
    "RCPT TO:<{recipient}> ORCPT=rfc822;a@b",
]
WRONG_REPORTS = [
    "RCPT TO:<{recipient}> NOTIFY=NEVER,DELAY",
    "RCPT TO:<{recipient}> NOTIFY=ALWAYS",
    "RCPT TO:<{recipient}> NOTIFY=DELAY NOTIFY=DELAY",
    "RCPT TO:<{recipient}> ORCPT=a@b",
    "RCPT TO:<{recipient}> ORCPT=rfc822;a=b",
]
MAILING = [("MAIL FROM:<{sender}>", 250)]
REPORTS = _each("report", REPORT_OF_MESSAGE, 250) + _each("report", REPORT_OF_RECIPIENT, 250, MAILING)
REPORTS += _each("report", WRONG_REPORTS, 501, MAILING)
NO_REPORTS = _each("report", REPORT_OF_MESSAGE, 555)
NO_REPORTS += _each("report", REPORT_OF_RECIPIENT + WRONG_REPORTS, 555, MAILING)

# At the MX alone.

GOOD_SENDERS = _each(
    "sender",
    [
        "MAIL FROM:<>",
        "MAIL FROM:<a@b.test>",
        'MAIL FROM:<"quoted local"@b.test>',
        'MAIL FROM:<"a\\"b"@c.test>',
        'MAIL FROM:<"a>b@c"@d.test>',
        "MAIL FROM:<a@[192.0.2.1]>",
        "MAIL FROM:<a@[IPv6:2001:db8::1]>",
        "MAIL FROM:<a+tag@b.test>",
        "MAIL FROM:<!#$%&'*+/=?^_`{{|}}~-@b.test>",
        "MAIL FROM:<" + "x" * 64 + "@b.test>",
        "MAIL FROM:<a@" + ".".join(["d" * 60] * 4) + ".ex>",
        "MAIL FROM:<@route.test,@other.test:a@b.test>",
        "MAIL FROM:<gr\u00e5@b\u00fccher.test> SMTPUTF8",
        "MAIL FROM:<\u4e2d\u6587@\u4f8b.test> SMTPUTF8 BODY=8BITMIME SIZE=9",
        "MAIL FROM:<a@b.test> SMTPUTF8",
    ],
    250,
)

RELAYING = _each(
    "recipient",
    [
        "RCPT TO:<{other}>",
        "RCPT TO:<x%elsewhere.test@{domain}>",
        "RCPT TO:<elsewhere.test!x@{domain}>",
        'RCPT TO:<"x@elsewhere.test"@{domain}>',
        'RCPT TO:<"x%elsewhere.test"@{domain}>',
        "RCPT TO:<@{domain}:x@elsewhere.test>",
        "RCPT TO:<@elsewhere.test,@{domain}:x@elsewhere.test>",
        "RCPT TO:<x@elsewhere.test@{domain}>",
        "RCPT TO:<x@elsewhere.test.>",
        "RCPT TO:<x@{domain}.>",
        "RCPT TO:<x@.{domain}>",
        "RCPT TO:<x@sub.{domain}>",
        "RCPT TO:<x@{domain}.elsewhere.test>",
        "RCPT TO:<x@not{domain}>",
        "RCPT TO:<x@[127.0.0.1]>",
        "RCPT TO:<x@[IPv6:::1]>",
        "RCPT TO:<x@127.0.0.1>",
        "RCPT TO:<x@localhost>",
        "RCPT TO:<x>",
        "RCPT TO:<>",
        "RCPT TO:<x@elsewhere.test> x@{domain}",
        "RCPT TO:<x@elsewhere.test\u00ad>",
    ],
    (*NO_RELAY, 555),
    before=[("MAIL FROM:<{sender}>", 250)],
) + _each(
    "recipient in another script",
    [
        "RCPT TO:<x@r\u0435lay.test>",
        "RCPT TO:<x@\uff52elay.test>",
        "RCPT TO:<x@relay.te\u017ft>",
        "RCPT TO:<x@relay\uff0etest>",
        "RCPT TO:<\u00e9@{domain}>",
    ],
    NO_RELAY,
    before=[("MAIL FROM:<> SMTPUTF8", 250)],
)

MX = [
    ("postmaster without a domain", [("MAIL FROM:<>", 250), ("RCPT TO:<PostMaster>", 250)]),
    ("postmaster in any case", [("MAIL FROM:<>", 250), ("RCPT TO:<POSTMASTER@{domain}>", 250)]),
    ("no login", [("AUTH PLAIN AGEAYg==", (502, 503)), ("MAIL FROM:<> AUTH=<>", 555)]),
    ("no TLS without a certificate", [("STARTTLS", 502)]),
    ("UTF-8 without SMTPUTF8", [("MAIL FROM:<gr\u00e5@b.test>", 553)]),
    ("UTF-8 recipient without SMTPUTF8", [("MAIL FROM:<>", 250), ("RCPT TO:<\u00e9@{domain}>", 553)]),
    ("VRFY tells nobody apart", [("VRFY {recipient}", 252), ("VRFY nobody@{domain}", 252), ("VRFY \u00e9", 252)]),
]

# At the bridge alone.

BRIDGE = [
    ("no UTF-8 sender", [("MAIL FROM:<gr\u00e5@b.test>", 553)]),
    ("no SMTPUTF8", [("MAIL FROM:<{sender}> SMTPUTF8", 555)]),
    ("no UTF-8 recipient", [("MAIL FROM:<{sender}>", 250), ("RCPT TO:<\u00e9@b.test>", 553), *BEGIN[1:]]),
    ("somebody else's address", [("MAIL FROM:<ceo@elsewhere.test>", 550)]),
    ("the null sender", [("MAIL FROM:<>", 550)]),
    ("no postmaster without a domain", [("MAIL FROM:<{sender}>", 250), ("RCPT TO:<Postmaster>", 550)]),
    ("no login twice", [("AUTH PLAIN AGEAYg==", 503)]),
    ("no TLS", [("STARTTLS", 502)]),
    ("AUTH= is nobody's concern", [("MAIL FROM:<{sender}> AUTH=<>", 250)]),
]

BOTH = ORDER + VERBS + BAD_SENDERS + PARAMETERS + CHUNKS
DOORS = {"mx": BOTH + GOOD_SENDERS + RELAYING + MX + NO_REPORTS, "bridge": BOTH + BRIDGE + REPORTS}


def false_ends():
    """Forty and more forms that are not CRLF.CRLF, whatever another server takes them for."""
    before = [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\0"]
    behind = [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b" \r\n", b"\t\r\n", b"\0\r\n"]
    forms = [a + b"." + b for a in before for b in behind] + [b"\r\n..\r\n", b"\n..\n", b"\r\n.\0\r\n", b"\r\n. .\r\n"]
    return [form for form in forms if b"\r\n.\r\n" not in form]
