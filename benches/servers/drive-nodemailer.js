// Ways: `pool` (one connection), `new` (a connection for each message). See ../peers/src/lib.rs for arguments, environment and
// output.
"use strict";
const fs = require("fs");
const nodemailer = require("nodemailer");

const [way, security, host, port, count, path] = process.argv.slice(2);
const env = process.env;
const unmeasured = "PEERS_WARM" in env ? 1 : 0;
const raw = fs.readFileSync(path);
const envelope = { from: env.PEERS_FROM ?? "a@example.org", to: [env.PEERS_TO ?? "b@example.net"] };
const seconds = (begun) => Number(process.hrtime.bigint() - begun) / 1e9;

async function main() {
  const begun = process.hrtime.bigint();
  const transport = nodemailer.createTransport({
    host,
    port: Number(port),
    name: "localhost",
    pool: way === "pool",
    maxConnections: 1,
    maxMessages: Infinity,
    secure: security === "tls",
    ignoreTLS: security === "plain",
    requireTLS: security === "starttls",
    tls: security === "plain" ? {} : { ca: fs.readFileSync(env.PEERS_CA), servername: "localhost" },
    auth: env.PEERS_USER ? { user: env.PEERS_USER, pass: env.PEERS_PASSWORD } : undefined,
  });
  let spent = 0;
  let sending = begun;
  for (let n = 0; n < unmeasured + Number(count); n++) {
    if (unmeasured && (n === unmeasured || way === "new")) {
      if (n > unmeasured) spent += seconds(sending);
      await new Promise((done) => setTimeout(done, 50));
      sending = process.hrtime.bigint();
    }
    await transport.sendMail({ envelope, raw });
  }
  spent += seconds(sending);
  transport.close();
  console.log(JSON.stringify({ seconds: spent, messages: Number(count) }));
}

main();
