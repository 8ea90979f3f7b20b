// server.js PKI MAIL TOKEN CERTIFICATE...: runs nodemailer's smtp-server on ports of loopback.
//
// 18525: STARTTLS offered, AUTH after it. 18465: implicit TLS. 18588: AUTH without TLS.
// 18526: SIZE 20000 and no other extension. 18424: LMTP, STARTTLS offered.
// 18600 + N and 18700 + N: the Nth CERTIFICATE, by STARTTLS and by implicit TLS.
// Everything sent by clients whose address is not 127.0.0.1 is written to MAIL/heard.
// A message is stored unchanged in MAIL/N.eml, and its envelope in MAIL/N.envelope (written first).
"use strict";
const fs = require("fs");
const path = require("path");
const { SMTPServer } = require("smtp-server");

const [, , PKI, MAIL, TOKEN, ...ODD] = process.argv;
const USER = "alice@lab.test";
const PASSWORD = "s3cret-p@ss";
const USERS = ["alice", "bob", "jörg", "reject"];

const refusal = (responseCode, text) => Object.assign(new Error(text), { responseCode });

const commands = new Map(); // by session: MAIL and RCPT as they were sent, including refused ones
let count = 0;

const addresses = new Map(); // by session

function heard(address, what) {
  if (address && address !== "127.0.0.1") fs.appendFileSync(`${MAIL}/heard`, `${address} ${what}\n`);
}

function onCommand(entry, prefix, line) {
  if (entry.tnx !== "command" || prefix !== "C:") return;
  heard(addresses.get(entry.cid), line);
  const verb = String(line).slice(0, 4).toUpperCase();
  if (verb === "MAIL") commands.set(entry.cid, []);
  if (verb === "MAIL" || verb === "RCPT") commands.get(entry.cid)?.push(line);
}

function onAuth(auth, session, done) {
  const right = {
    PLAIN: () => auth.password === PASSWORD,
    LOGIN: () => auth.password === PASSWORD,
    "CRAM-MD5": () => auth.validatePassword(PASSWORD),
    XOAUTH2: () => auth.accessToken === TOKEN,
  }[auth.method];
  if (auth.username === USER && right()) return done(null, { user: USER });
  // Without a user, smtp-server sends the data as a challenge (XOAUTH2 only), and 535 after the response.
  done(null, { data: { status: "401", schemes: "bearer", scope: "mail" } });
}

function onRcptTo({ address }, session, done) {
  const at = address.lastIndexOf("@");
  const user = address.slice(0, at).split("+")[0];
  if (address.slice(at + 1) !== "lab.test") {
    return session.user ? done() : done(refusal(550, "5.7.1 Relaying denied"));
  }
  if (user === "greylist") return done(refusal(451, "4.7.1 Greylisted, come back later"));
  USERS.includes(user) ? done() : done(refusal(550, "5.1.1 No such user here"));
}

function onData(stream, session, done) {
  const chunks = [];
  const lmtp = this.options.lmtp;
  stream.on("data", (chunk) => chunks.push(chunk));
  stream.on("end", () => {
    if (stream.sizeExceeded) return done(refusal(552, "5.3.4 Too large"));
    const replies = session.envelope.rcptTo.map(({ address }) =>
      address.startsWith("reject@") ? refusal(452, `4.2.2 <${address}> is full`) : `<${address}> Stored`,
    );
    const refused = replies.filter((reply) => reply instanceof Error);
    if (refused.length < (lmtp ? replies.length : 1)) store(session, Buffer.concat(chunks));
    if (lmtp) return done(null, replies);
    done(refused[0] ?? null, "Stored"); // one reply for all: if one recipient refuses, nobody gets the message
  });
}

function store(session, content) {
  const name = path.join(MAIL, String(++count).padStart(6, "0"));
  const about = [
    `port ${session.localPort}`,
    `tls ${session.secure ? "yes" : "no"}`,
    `hello ${session.hostNameAppearsAs}`,
    ...(session.user ? [`login ${session.user}`] : []),
    ...commands.get(session.id),
  ];
  fs.writeFileSync(`${name}.envelope`, about.map((line) => `${line}\n`).join(""));
  fs.writeFileSync(`${name}.part`, content);
  fs.renameSync(`${name}.part`, `${name}.eml`); // it appears complete or not at all
}

function listen(port, options) {
  const nothing = () => {};
  const server = new SMTPServer({
    name: "smtpserver.lab.test",
    key: fs.readFileSync(`${PKI}/server.key`),
    cert: fs.readFileSync(`${PKI}/server.chain.pem`),
    size: 50 << 20,
    authOptional: true,
    authMethods: ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"],
    disableReverseLookup: true,
    hideDSN: false,
    hideREQUIRETLS: false,
    logger: { trace: nothing, debug: onCommand, info: nothing, warn: nothing, error: console.error, fatal: console.error },
    onAuth,
    onRcptTo,
    onData,
    onConnect(session, done) {
      addresses.set(session.id, session.remoteAddress);
      done();
    },
    onClose(session) {
      heard(session.remoteAddress, "closed");
      commands.delete(session.id);
      addresses.delete(session.id);
    },
    ...options,
  });
  // A client disconnected, which the logger reports. During the first handshake there is no session.
  server.on("error", (error) => heard(error.meta?.remoteAddress, "closed"));
  server.listen(port, "127.0.0.1");
}

ODD.forEach((name, i) => {
  const shown = { key: fs.readFileSync(`${PKI}/${name}.key`), cert: fs.readFileSync(`${PKI}/${name}.chain.pem`) };
  listen(18701 + i, { ...shown, secure: true });
  listen(18601 + i, shown);
});
listen(18525, {});
listen(18465, { secure: true });
listen(18588, { hideSTARTTLS: true, allowInsecureAuth: true });
listen(18526, {
  size: 20000,
  hideSTARTTLS: true,
  hidePIPELINING: true,
  hide8BITMIME: true,
  hideSMTPUTF8: true,
  hideENHANCEDSTATUSCODES: true,
  hideDSN: true,
  disabledCommands: ["AUTH", "STARTTLS"],
});
listen(18424, { lmtp: true });
