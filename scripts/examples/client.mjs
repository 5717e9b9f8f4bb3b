#!/usr/bin/env node
// Control an agent with nothing but Node.js.
//
//     client.mjs [HOST:PORT]
//
// Lists the members, sends the user event `hello`, and waits until it arrives.
import { connect } from "node:net";
import { createInterface } from "node:readline";

const [host, port] = (process.argv[2] ?? "127.0.0.1:7373").split(/:(?=\d+$)/);
const agent = connect(Number(port), host);
agent.setTimeout(10_000, () => agent.destroy(new Error("the agent did not respond")));
const send = (request) => agent.write(JSON.stringify(request) + "\n");

// The stream is open before the event is sent, so that the event cannot be missed.
send({ command: "stream", seq: 1, types: ["user:hello"] });
for await (const line of createInterface({ input: agent })) {
  const record = JSON.parse(line);
  if (record.ok === false) throw new Error(record.error.message);
  if (record.event) {
    console.log(record.name, record.payload);
    break;
  }
  if (record.seq === 1) send({ command: "members", seq: 2 });
  if (record.seq === 2) {
    for (const member of record.members) console.log(member.name, member.status);
    send({ command: "event", seq: 3, name: "hello", payload: "from Node.js" });
  }
}
agent.end();
