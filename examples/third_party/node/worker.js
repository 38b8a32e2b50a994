// A worker for anyserve in Node.js, from docs/spec alone: framing, four models, registration, drain.
// In the reader's order: the models, one exchange, one connection, the management port, start and end.
// Names in backticks are requirements of docs/spec.
'use strict';

const { once } = require('node:events');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { setImmediate: turn, setTimeout: sleep } = require('node:timers/promises');
const { parseArgs } = require('node:util');
const { randomUUID } = require('node:crypto');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const PROTO = path.join(__dirname, '..', '..', '..', 'proto');
const HEAD_BYTES = 4;
const FRAME_LIMIT = setting('ANYSERVE_MAX_MESSAGE_BYTES', 64 * 2 ** 20) + 131_072; // `frame.limit.request`
const GRACE_MS = setting('ANYSERVE_GRACE', 30) * 1000;
const ORPHAN_MS = setting('ANYSERVE_ORPHAN_TIMEOUT', 30) * 1000;
const PLACES = 8; // of each model, said at registration: the agent opens no more connections
const MAX_CONNECTIONS = 256;
const HEARTBEAT_MS = 1000;
const RETRY_MS = 500; // with a call's limit less than 2 s (`lifecycle.worker.retry`)
const CALL_MS = 1000;
const LONGEST_TIMER_MS = 2 ** 31 - 1; // Node.js takes a longer one for 1 ms

function setting(name, otherwise) {
  const value = Number(process.env[name] ?? otherwise);
  if (!(value >= 0)) throw new Error(`${name} is no number: ${process.env[name]}`);
  return value;
}

const root = new protobuf.Root();
root.resolvePath = (_from, file) => path.resolve(PROTO, file);
root.loadSync(['grpc_predict_v2.proto', path.join(__dirname, '..', 'envelope.proto')], { keepCase: true });
const Envelope = root.lookupType('anyserve.example.Envelope');
const Request = root.lookupType('inference.ModelInferRequest');
const Reply = root.lookupType('inference.ModelInferResponse');
const StreamReply = root.lookupType('inference.ModelStreamInferResponse');

const { INVALID_ARGUMENT, NOT_FOUND, INTERNAL, UNAUTHENTICATED, UNIMPLEMENTED, RESOURCE_EXHAUSTED } = grpc.status;

// ---- The models: unary ones return their reply, streaming ones yield replies. `gone` aborts with the connection.

class Failure extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const counts = { running: 0, produced: 0 };
const int = (value) => ({ int64_param: value });

function parameter(request, name, kind, otherwise) {
  const found = request.parameters[name];
  if (found === undefined) return otherwise;
  if (found.parameter_choice !== kind) throw new Failure(INVALID_ARGUMENT, `parameter ${name} is no ${kind}`);
  return kind === 'int64_param' ? Number(found[kind]) : found[kind];
}

async function echo({ inputs, raw_input_contents: raw }) {
  if (raw.length && raw.length !== inputs.length) {
    throw new Failure(INVALID_ARGUMENT, 'raw contents and inputs differ in number');
  }
  const outputs = inputs.map(({ name, datatype, shape, contents }) => ({ name, datatype, shape, contents }));
  return { outputs, raw_output_contents: raw };
}

async function fail(request) {
  const code = parameter(request, 'code', 'int64_param', INVALID_ARGUMENT);
  if (code < 1 || code > 16) throw new Failure(INVALID_ARGUMENT, 'code is not between 1 and 16');
  throw new Failure(code, parameter(request, 'message', 'string_param', 'as asked'));
}

async function wait(request, gone) {
  counts.running += 1;
  try {
    const ms = parameter(request, 'ms', 'int64_param', 0);
    await sleep(Math.min(ms, LONGEST_TIMER_MS), undefined, { signal: gone });
    return { parameters: { running: int(counts.running), produced: int(counts.produced) } };
  } finally {
    counts.running -= 1;
  }
}

async function* count(request) {
  const n = parameter(request, 'n', 'int64_param', 3);
  const failAt = parameter(request, 'fail_at', 'int64_param', -1);
  const size = parameter(request, 'size', 'int64_param', undefined);
  if (size < 0 || size > FRAME_LIMIT) throw new Failure(INVALID_ARGUMENT, 'size is out of range');
  const data = size === undefined ? {} : {
    outputs: [{ name: 'data', datatype: 'UINT8', shape: [size] }], raw_output_contents: [Buffer.alloc(size)],
  };
  for (let i = 0; i < n; i += 1) {
    if (i === failAt) throw new Failure(INTERNAL, 'as asked');
    counts.produced += 1;
    yield { parameters: { i: int(i) }, ...data };
  }
}

const MODELS = new Map([
  ['echo', { run: echo, stream: false }],
  ['fail', { run: fail, stream: false }],
  ['wait', { run: wait, stream: false }],
  ['count', { run: count, stream: true }],
]);

// ---- One exchange: a request's payload in, its reply frames out.

async function exchange(payload, send, gone) {
  let model;
  try {
    model = choose(decode(Envelope, payload));
    const request = decode(Request, payload);
    if (model.stream) {
      for await (const reply of model.run(request)) await send(StreamReply.encode({ infer_response: reply }).finish());
    } else {
      await send(Reply.encode(await model.run(request, gone)).finish());
    }
  } catch (error) {
    gone.throwIfAborted(); // nobody is left to tell
    await send(failure(error, model?.stream));
  }
  if (model?.stream) await send(Buffer.alloc(0)); // the end, also after an error: `frame.reply.stream`
}

function decode(type, payload) {
  try {
    return type.decode(payload);
  } catch (error) {
    throw new Failure(INVALID_ARGUMENT, `the request cannot be parsed: ${error.message}`);
  }
}

function choose({ model_name: name, model_version: version, parameters }) { // `frame.request.handler`
  const capability = parameters.anyserve_capability?.string_param; // as registered: `type=NAME`
  const model = MODELS.get(capability ? /^type=(.*)$/.exec(capability)?.[1] : name);
  if (!model || (!capability && version)) {
    throw new Failure(NOT_FOUND, `this worker does not serve ${capability || `${name} ${version}`}`);
  }
  return model;
}

function failure(error, stream) {
  const parameters = { anyserve_error_code: int(error instanceof Failure ? error.code : INTERNAL) };
  if (stream) { // where an empty message would be no error
    return StreamReply.encode({ error_message: error.message || 'failed', infer_response: { parameters } }).finish();
  }
  parameters.anyserve_error_message = { string_param: error.message };
  return Reply.encode({ parameters }).finish();
}

// ---- One connection: frames in whatever pieces they come, one exchange after the other.

class Connection {
  chunks = [];
  size = 0; // of all chunks
  busy = false;
  draining = false;

  constructor(socket) {
    this.socket = socket;
    const gone = new AbortController();
    this.gone = gone.signal;
    // It is read from while a handler runs, too: nothing else tells that the agent has closed it.
    for (const event of ['end', 'error', 'close']) socket.on(event, () => gone.abort());
    socket.on('data', (chunk) => {
      this.chunks.push(chunk);
      this.size += chunk.length;
      if (this.size > HEAD_BYTES + FRAME_LIMIT) socket.pause(); // an agent that sends ahead waits
      if (!this.busy) this.serve();
    });
  }

  async serve() {
    this.busy = true;
    try {
      for (let payload; (payload = this.take()) !== undefined;) await exchange(payload, this.send, this.gone);
    } catch (error) {
      if (!this.gone.aborted) console.error(`connection closed: ${error.message}`);
      this.socket.destroy();
    }
    this.busy = false;
    this.socket.resume();
    this.closeIfIdle();
  }

  /** The payload of the next frame, once it is there as a whole. */
  take() {
    if (this.size < HEAD_BYTES) return undefined;
    if (this.chunks[0].length < HEAD_BYTES) this.chunks = [Buffer.concat(this.chunks)];
    const length = this.chunks[0].readUInt32BE(0);
    if (length > FRAME_LIMIT) throw new Error(`a frame of ${length} bytes is above the limit`);
    const end = HEAD_BYTES + length;
    if (this.size < end) return undefined;
    const bytes = this.chunks.length === 1 ? this.chunks[0] : Buffer.concat(this.chunks);
    this.size -= end;
    this.chunks = this.size ? [bytes.subarray(end)] : [];
    return bytes.subarray(HEAD_BYTES, end);
  }

  /** Writes one frame, and returns when there is room for the next: that stops a handler, `stream.flow.worker`. */
  send = async (payload) => {
    this.gone.throwIfAborted();
    const head = Buffer.alloc(HEAD_BYTES);
    head.writeUInt32BE(payload.length);
    const room = this.socket.write(Buffer.concat([head, payload]));
    await (room ? turn() : once(this.socket, 'drain', { signal: this.gone })); // others get a turn in either case
  };

  closeIfIdle() {
    if (this.draining && !this.busy && this.size === 0) this.socket.destroySoon(); // after what is written
  }
}

class Listener {
  connections = new Set();
  server = undefined;

  constructor(file) {
    this.file = file;
  }

  async listen() {
    const server = net.createServer((socket) => {
      const connection = new Connection(socket);
      this.connections.add(connection);
      socket.on('close', () => this.connections.delete(connection));
    });
    server.maxConnections = MAX_CONNECTIONS;
    this.server?.close();
    this.server = server.listen(this.file);
    await once(server, 'listening');
  }

  /** Ends what has begun on the accepted connections, and what has not after the grace. */
  async drain() {
    this.server.close(); // removes the socket's file
    await turn();
    await turn(); // what has come is read now: `lifecycle.worker.drain`
    const closed = [...this.connections].map(({ socket }) => new Promise((done) => socket.on('close', done)));
    const hurry = setTimeout(() => this.connections.forEach(({ socket }) => socket.destroy()), GRACE_MS);
    for (const connection of this.connections) {
      connection.draining = true;
      connection.closeIfIdle();
    }
    await Promise.all(closed);
    clearTimeout(hurry);
  }
}

// ---- The management port: register, heartbeats, leave. One call at a time, so nothing follows the leave.

class Management {
  constructor(address, id, file) {
    const { anyserve } = grpc.loadPackageDefinition(
      protoLoader.loadSync(path.join(PROTO, 'worker_management.proto'), { keepCase: true }));
    // Without these gRPC would wait for up to two minutes before it tries an agent again that has restarted.
    const backoff = { 'grpc.initial_reconnect_backoff_ms': 100, 'grpc.max_reconnect_backoff_ms': 500 };
    const options = { ...backoff, 'grpc.enable_http_proxy': 0 };
    this.client = new anyserve.WorkerManagement(address, grpc.credentials.createInsecure(), options);
    this.metadata = new grpc.Metadata();
    const token = process.env.ANYSERVE_MANAGEMENT_TOKEN;
    if (token) this.metadata.set('authorization', `Bearer ${token}`);
    this.worker = { worker_id: id };
    this.address = `unix://${file}`;
  }

  call(method, request, limit = CALL_MS) {
    return new Promise((resolve, reject) => {
      const done = (error, reply) => (error ? reject(error) : resolve(reply));
      this.client[method](request, this.metadata, { deadline: Date.now() + limit }, done);
    });
  }

  /** Keeps the worker registered until `stop` aborts or no agent is left. Throws when the agent refuses it. */
  async run(stop, keepListening) {
    const refusals = [INVALID_ARGUMENT, UNAUTHENTICATED, UNIMPLEMENTED, RESOURCE_EXHAUSTED];
    let registered = false;
    let answered = Date.now();
    while (!stop.aborted && Date.now() - answered < ORPHAN_MS) {
      try {
        if (!registered) await this.register();
        registered = (await this.call('Heartbeat', { ...this.worker, model_names: [...MODELS.keys()] })).healthy;
        answered = Date.now();
      } catch (error) {
        if (refusals.includes(error.code)) throw error; // `lifecycle.worker.refused`
        console.error(`the management port: ${error.message}`);
      }
      await keepListening();
      // Aborted is what ends it early, and the loop.
      await sleep(registered ? HEARTBEAT_MS : RETRY_MS, undefined, { signal: stop }).catch(() => undefined);
    }
  }

  async register() {
    for (const [name, { stream }] of MODELS) {
      const model = { model_name: name, capability: { type: name }, stream, max_concurrency: PLACES };
      const request = { ...this.worker, worker_address: this.address, ...model };
      const { success, message } = await this.call('RegisterModel', request);
      if (!success) throw new Error(`${name} is not registered: ${message}`);
    }
  }

  async leave() {
    await this.call('UnregisterWorker', this.worker).catch((error) => console.error(`took no leave: ${error.message}`));
    this.client.close();
  }
}

// ---- Start and end.

async function main() {
  const { values } = parseArgs({ options: { management: { type: 'string' }, 'socket-dir': { type: 'string' } } });
  if (!values.management) throw new Error('usage: node worker.js --management HOST:PORT [--socket-dir DIR]');
  const stop = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => stop.abort());

  process.umask(0o077); // the socket is for its own user alone; Node.js cannot ask who the peer is
  const own = values['socket-dir'] ? undefined : fs.mkdtempSync(path.join(os.tmpdir(), 'any'));
  const id = `node-${process.pid}-${randomUUID().slice(0, 8)}`;
  const file = path.resolve(values['socket-dir'] ?? own, `${id}.sock`);
  const listener = new Listener(file);
  await listener.listen();
  const management = new Management(values.management, id, file);
  try {
    await management.run(stop.signal, () => fs.existsSync(file) || listener.listen()); // `lifecycle.worker.relisten`
  } catch (error) {
    console.error(`ended: ${error.message}`);
    process.exitCode = 1;
  }
  await management.leave();
  await listener.drain();
  if (own) fs.rmdirSync(own);
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
