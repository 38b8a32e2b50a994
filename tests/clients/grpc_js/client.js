// A client of @grpc/grpc-js and @grpc/proto-loader; it knows nothing of anyserve. Prints JSON.
//
// Usage: node client.js ADDRESS PROTO HEALTH, where PROTO is the protocol's file and
// HEALTH a serialized FileDescriptorSet of grpc.health.v1.

"use strict";

const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, proto, health] = process.argv.slice(2);
const options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };
const { inference } = grpc.loadPackageDefinition(loader.loadSync(proto, options));
const healthSet = loader.loadFileDescriptorSetFromBuffer(fs.readFileSync(health), options);
const { Health } = grpc.loadPackageDefinition(healthSet).grpc.health.v1;

const credentials = grpc.credentials.createInsecure();
const client = new inference.GRPCInferenceService(address, credentials);
const healthClient = new Health(address, credentials);

const failure = (error) => ({ code: grpc.status[error.code], details: error.details });

/** Calls a unary RPC; resolves to the response, or to {code, details}. */
function unary(stub, rpc, request, { metadata = new grpc.Metadata(), timeout = 20000 } = {}) {
  const deadline = new Date(Date.now() + timeout);
  return new Promise((resolve) => {
    stub[rpc](request, metadata, { deadline }, (error, response) => resolve(error ? failure(error) : response));
  });
}

/** Sends requests on one stream; resolves to what came back and how it ended. */
function stream(requests, { cancelAfterFirst = false } = {}) {
  const call = client.ModelStreamInfer({ deadline: new Date(Date.now() + 20000) });
  return new Promise((resolve) => {
    const replies = [];
    call.on("data", (reply) => {
      const raw = reply.infer_response.raw_output_contents[0];
      const value = reply.error_message || (raw ? raw.readBigInt64LE().toString() : null);
      replies.push([reply.infer_response.id, value]);
      if (cancelAfterFirst) call.cancel();
    });
    call.on("error", () => {}); // told by "status" too
    call.on("status", (status) => resolve({ replies, status: grpc.status[status.code] }));
    requests.forEach((request) => call.write(request));
    if (!cancelAfterFirst) call.end();
  });
}

function counting(to, id) {
  const contents = { int64_contents: [String(to)] };
  return { model_name: "count", id, inputs: [{ name: "to", datatype: "INT64", shape: [1], contents }] };
}

function capability(entries) {
  const metadata = new grpc.Metadata();
  Object.entries(entries).forEach(([key, pattern]) => metadata.set(`x-cap-${key}`, pattern));
  return { metadata };
}

function readableRaw(response) {
  return { ...response, raw_output_contents: response.raw_output_contents.map((raw) => raw.toString("hex")) };
}

async function main() {
  const typed = {
    model_name: "echo",
    id: "é1",
    inputs: [
      { name: "x", datatype: "FP32", shape: [2], contents: { fp32_contents: [1.5, -2] } },
      { name: "t", datatype: "BYTES", shape: [1], contents: { bytes_contents: [Buffer.from("é")] } },
      { name: "big", datatype: "INT64", shape: [1], contents: { int64_contents: ["9223372036854775807"] } },
    ],
    parameters: { note: { string_param: "from node" }, big: { uint64_param: "18446744073709551615" } },
  };
  const raw = {
    model_name: "echo",
    inputs: [{ name: "x", datatype: "INT16", shape: [2] }],
    raw_input_contents: [Buffer.from([1, 0, 255, 255])],
  };
  const waiting = { model_name: "wait", id: "node" };
  const results = {
    live: await unary(client, "ServerLive", {}),
    ready: await unary(client, "ServerReady", {}),
    metadata: await unary(client, "ModelMetadata", { name: "add", version: "2" }),
    config: await unary(client, "ModelConfig", { name: "count" }),
    typed: await unary(client, "ModelInfer", typed),
    raw: readableRaw(await unary(client, "ModelInfer", raw)),
    byCapability: readableRaw(await unary(client, "ModelInfer", {}, capability({ type: "chat", model: "llama-7?" }))),
    notFound: await unary(client, "ModelInfer", { model_name: "no_such_model" }),
    failed: await unary(client, "ModelInfer", { model_name: "fail" }),
    deadline: await unary(client, "ModelInfer", waiting, { timeout: 300 }),
    cancelled: await unary(client, "ModelInfer", {
      model_name: "witness",
      id: "node",
      parameters: { event: { string_param: "cancelled" } },
    }),
    stream: await stream([counting(3, "a"), { model_name: "no_such_model", id: "b" }, counting(-1, "c")]),
    cancelledStream: await stream([counting(1000000, "d")], { cancelAfterFirst: true }),
    health: await unary(healthClient, "Check", { service: "inference.GRPCInferenceService" }),
    unknownHealth: await unary(healthClient, "Check", { service: "no.such.Service" }),
  };
  console.log(JSON.stringify(results));
  client.close();
  healthClient.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
