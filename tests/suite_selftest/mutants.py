"""Agents and workers that break one requirement each: what a suite must find that is worth anything.

A mutant is the reference implementation with one piece of text replaced.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    """One change. `module` is below `anyserve`; `old` stands in its source exactly once."""

    name: str
    requirement: str
    where: str
    old: str
    new: str
    subject: str = "agent"

    @property
    def module(self) -> str:
        """The full name of the mutated module."""
        return f"anyserve.{self.where}"

    def applied(self, source: str) -> str:
        """The mutated source.

        Raises:
            ValueError: the text to be replaced does not stand there once; the mutant must follow the code.
        """
        if source.count(self.old) != 1:
            raise ValueError(f"mutant {self.name}: {self.old!r} stands {source.count(self.old)} times in {self.module}")
        return source.replace(self.old, self.new)


_FRAMES = [
    Mutant(
        "length-little-endian", "frame.length.format", "framing",
        'return length.to_bytes(HEADER_SIZE, "big")', 'return length.to_bytes(HEADER_SIZE, "little")',
    ),
    Mutant(
        "length-limit-not-checked", "frame.length.limit", "framing",
        "if length > self._limit:", "if False:",
    ),
    Mutant(
        "length-limit-one-too-low", "frame.length.at-limit", "framing",
        "if length > self._limit:", "if length >= self._limit:",
    ),
    Mutant(
        "empty-frames-swallowed", "frame.length.zero", "framing",
        "                frames.append(buffer[position : position + self._length])\n",
        "                if self._length:\n"
        "                    frames.append(buffer[position : position + self._length])\n",
    ),
    Mutant(
        "one-frame-per-read", "frame.length.split", "framing",
        "while len(buffer) - position >= self._wanted():", "while not frames and len(buffer) - position >= self._wanted():",
    ),
    Mutant(
        "request-reordered", "frame.request.verbatim", "agent.dispatcher",
        "return (request.payload, annotations)",
        "return (annotations, request.payload)",
    ),
    Mutant(
        "annotated-without-capability", "frame.request.plain", "agent.dispatcher",
        "    if not registration.annotate:\n        return (request.payload,)\n", "",
    ),
    Mutant(
        "capability-not-told", "frame.request.annotations", "agent.dispatcher",
        "annotations = _capability_parameter(registration.capability.encoded)", 'annotations = b""',
    ),
    Mutant(
        "timeout-in-seconds", "frame.request.timeout", "agent.dispatcher",
        "asyncio.get_running_loop().time()) * 1000))", "asyncio.get_running_loop().time())))",
    ),
    Mutant(
        "traceparent-lost", "frame.request.traceparent", "agent.dispatcher",
        "    if request.traceparent:\n", "    if False:\n",
    ),
    Mutant(
        "first-value-counts", "frame.scan.last", "scan",
        'head.model_name = _text(data, first, last, "model_name")',
        'head.model_name = head.model_name or _text(data, first, last, "model_name")',
    ),
    Mutant(
        "first-map-entry-counts", "frame.scan.map", "scan",
        "    parameters[key] = value\n", "    parameters.setdefault(key, value)\n",
    ),
    Mutant(
        "first-choice-counts", "frame.scan.choice", "scan",
        "        if number == 1:\n            value = first != 0\n",
        "        if value is not None:\n            continue\n        if number == 1:\n            value = first != 0\n",
    ),
    Mutant(
        "cut-field-taken", "frame.scan.cut", "scan",
        '                raise MalformedMessage(f"field {number} is cut off")\n            yield number, wire_type, position, position + length',
        "                length = end - position\n            yield number, wire_type, position, position + length",
    ),
    Mutant(
        "varint-beyond-64-bits", "frame.scan.varint", "scan",
        "if result >= 1 << 64:", "if False:",
    ),
    Mutant(
        "field-number-zero-taken", "frame.scan.tag", "scan",
        "if number == 0 or tag >= 1 << 32:", "if tag >= 1 << 32:",
    ),
    Mutant(
        "wrong-wire-type-skipped", "frame.scan.wire-type", "scan",
        '        if wire_type != LENGTH:\n            raise MalformedMessage(f"field {number} has wire type {wire_type}")\n        if number == 1:\n            head.model_name',
        "        if wire_type != LENGTH:\n            continue\n        if number == 1:\n            head.model_name",
    ),
    Mutant(
        "groups-skipped", "frame.scan.group", "scan",
        '            raise MalformedMessage(f"field {number} has wire type {wire_type}, which proto3 does not use")',
        "            continue",
    ),
    Mutant(
        "utf8-not-checked", "frame.scan.utf8", "scan",
        "return data[start:stop].decode()", 'return data[start:stop].decode(errors="replace")',
    ),
    Mutant(
        "reply-name-not-filled", "frame.reply.fill-name", "agent.dispatcher",
        "if not head.model_name and (name := request.head.model_name or registration.listed_name):", "if (name := \"\"):",
    ),
    Mutant(
        "reply-version-overwritten", "frame.reply.fill-order", "agent.dispatcher",
        "if not head.model_version and (version := registration.listed_version):",
        "if version := registration.listed_version:",
    ),
    Mutant(
        "reply-version-not-filled", "frame.reply.fill-version", "agent.dispatcher",
        "if not head.model_version and (version := registration.listed_version):",
        "if not head.model_version and (version := request.head.model_version):",
    ),
    Mutant(
        "reply-id-not-filled", "frame.reply.fill-id", "agent.dispatcher",
        "if not head.id and request.head.id:", "if False:",
    ),
    Mutant(
        "malformed-reply-passed-on", "frame.reply.malformed", "agent.dispatcher",
        "        raise InferenceError(Code.INTERNAL, f\"the worker's reply is not a ModelInferResponse: {error}\") from error",
        "        return reply",
    ),
    Mutant(
        "failure-reply-passed-on", "frame.error.code", "agent.dispatcher",
        "    if ERROR_CODE in head.parameters:\n", "    if False:\n",
    ),
    Mutant(
        "any-error-code-taken", "frame.error.bad-code", "agent.dispatcher",
        "    return InferenceError(Code.INTERNAL, f\"the worker failed with",
        "    return InferenceError(Code.UNKNOWN, f\"the worker failed with",
    ),
    Mutant(
        "message-alone-is-a-failure", "frame.error.message-alone", "agent.dispatcher",
        "    if ERROR_CODE in head.parameters:\n",
        "    if ERROR_MESSAGE in head.parameters:\n        head.parameters.setdefault(ERROR_CODE, 13)\n"
        "    if ERROR_CODE in head.parameters:\n",
    ),
    Mutant(
        "cancel-not-passed-on", "frame.cancel.client", "agent.worker_client",
        "            self._finished = True\n            self._connection.abort()\n", "            self._finished = True\n",
    ),
    Mutant(
        "trailing-bytes-swallowed", "frame.violation.trailing", "agent.worker_client",
        "if self._frames or self._decoder.unfinished:\n            violation", "if False:\n            violation",
    ),
    Mutant(
        "truncation-is-no-violation", "frame.violation.truncated", "agent.worker_client",
        "        if self._decoder.unfinished:\n            return ProtocolViolation(\"a reply frame was cut off\")\n", "",
    ),
    Mutant(
        "violations-never-drop", "frame.violation.limit", "agent.workers",
        "if known.violations >= VIOLATION_LIMIT:", "if False:",
    ),
    Mutant(
        "first-violation-drops", "frame.violation.others", "agent.workers",
        "if known.violations >= VIOLATION_LIMIT:", "if True:",
    ),
    Mutant(
        "violations-never-forgiven", "frame.violation.row", "agent.workers",
        "        known.violations = 0\n        if known.shared_memory", "        if known.shared_memory",
    ),
    Mutant(
        "sent-twice", "frame.retry.never-twice", "agent.worker_client",
        'return WorkerGone("the worker closed the connection before its reply was complete")',
        'return NotTaken("the worker closed the connection before its reply was complete")',
    ),
    Mutant(
        "never-sent-elsewhere", "frame.retry.not-taken", "agent.worker_client",
        'return NotTaken("the worker closed without reading the request")',
        'return WorkerGone("the worker closed without reading the request")',
    ),
    Mutant(
        "kept-connection-not-retried", "frame.retry.kept", "agent.worker_client",
        "                    break  # the worker may close", "                    raise  # the worker may close",
    ),
    Mutant(
        "connections-not-kept", "frame.connections.reuse", "agent.worker_client",
        "            self._idle.append(connection)\n", "            connection.abort()\n",
    ),
    Mutant(
        "places-not-counted", "frame.connections.limit", "agent.queues",
        "if load.used.get(_pool(registration), 0) >= limit:", "if False:",
    ),
]  # fmt: skip

_SHARED_MEMORY = [
    Mutant(
        "shared-memory-answered-unasked",
        "manage.register.shared-memory",
        "agent.workers",
        "known.shared_memory = registration.shared_memory and self._memory.usable",
        "known.shared_memory = True",
    ),
    Mutant(
        "shared-with-whoever",
        "frame.shared.agreed",
        "agent.workers",
        "if known is None or not known.shared_memory:\n            return None",
        "if known is None:\n            return None",
    ),
    Mutant(
        "body-and-room-swapped",
        "frame.shared.request",
        "agent.worker_client",
        "frame = encode_reference(len(inline), body, room) + inline",
        "frame = encode_reference(len(inline), room, body) + inline",
    ),
    Mutant(
        "descriptors-behind-the-header",
        "frame.shared.descriptors",
        "agent.worker_client",
        "sent = socket.send_fds(self._sender, [frame], ",
        "self._sender.send(frame[:4])\n            sent = 4 + socket.send_fds(self._sender, [frame[4:]], ",
    ),
    Mutant(
        "more-told-than-there-is",
        "frame.shared.size",
        "agent.worker_client",
        "body = 0 if lent.body is None else len(parts[0])",
        "body = 0 if lent.body is None else lent.body.size + 1",
    ),
    Mutant(
        "body-not-sealed",
        "frame.shared.body-seals",
        "agent.shared_memory",
        "                seals |= SEAL_FUTURE_WRITE\n",
        "",
    ),
    Mutant(
        "room-not-sealed",
        "frame.shared.room-seals",
        "agent.shared_memory",
        "seals = SEAL_SHRINK | SEAL_GROW | SEAL_SEAL\n",
        "seals = SEAL_SEAL if worker else SEAL_SHRINK | SEAL_GROW | SEAL_SEAL\n",
    ),
    Mutant(
        "room-for-streams",
        "frame.shared.room-unary",
        "agent.workers",
        "last = known.last_replies.get(registration.key, 0)",
        "last = 1 << 20",
    ),
    Mutant(
        "rooms-of-all",
        "frame.shared.room-own",
        "agent.workers",
        "self._memory.room(known.client.number, last)",
        "self._memory.room(1, last)",
    ),
    Mutant(
        "memory-used-again-after-all",
        "frame.shared.body-free",
        "agent.shared_memory",
        "            if ended_well:\n                memory.give_back()\n",
        "            memory.give_back()\n",
    ),
    Mutant(
        "room-used-again-after-all",
        "frame.shared.room-free",
        "agent.shared_memory",
        "            if ended_well:\n                memory.give_back()\n",
        "            memory.give_back()\n",
    ),
    Mutant(
        "inline-bytes-first",
        "frame.shared.payload",
        "agent.worker_client",
        "frames[0] = self._lent.room.read(self._decoder.placed) + frames[0]",
        "frames[0] = frames[0] + self._lent.room.read(self._decoder.placed)",
    ),
    Mutant(
        "reference-without-a-room",
        "frame.shared.unoffered",
        "framing",
        "if header == BY_REFERENCE and self._offered:",
        "if header == BY_REFERENCE:",
    ),
    Mutant(
        "room-size-not-checked",
        "frame.shared.beyond",
        "framing",
        "if placed > self._offered or placed + inline > self._limit or last:",
        "if placed + inline > self._limit or last:",
    ),
    Mutant(
        "third-number-ignored",
        "frame.shared.beyond",
        "framing",
        "if placed > self._offered or placed + inline > self._limit or last:",
        "if placed > self._offered or placed + inline > self._limit:",
    ),
    Mutant(
        "reference-above-the-limit",
        "frame.shared.beyond",
        "framing",
        "if placed > self._offered or placed + inline > self._limit or last:",
        "if placed > self._offered or placed > self._limit or last:",
    ),
]  # fmt: skip

_ROUTES = [
    Mutant(
        "capability-keys-not-checked", "route.capability.keys", "capability",
        "if len(key) > MAX_KEY_LENGTH or not _KEY.fullmatch(key):\n        raise InvalidCapability", "if False:\n        raise InvalidCapability",
    ),
    Mutant(
        "capability-unsorted", "route.capability.encoding", "capability",
        "self._items = dict(sorted(items.items()))", "self._items = dict(sorted(items.items(), reverse=True))",
    ),
    Mutant(
        "query-ignored-where-named", "route.query.before-name", "agent.kserve_service",
        "        if facts.query is not None:\n", "        if facts.query is not None and not head.model_name:\n",
    ),
    Mutant(
        "plus-is-a-space", "route.query.decode", "capability",
        "        return unquote_to_bytes(text).decode()", '        return unquote_to_bytes(text.replace("+", " ")).decode()',
    ),
    Mutant(
        "bad-percent-taken", "route.query.percent", "capability",
        "    if _BAD_PERCENT.search(text):", "    if False:",
    ),
    Mutant(
        "query-key-twice-taken", "route.query.twice", "capability",
        "            if key in patterns:", "            if False:",
    ),
    Mutant(
        "case-ignored", "route.pattern.text", "capability",
        "        if value in self.literals:", "        if value.lower() in {text.lower() for text in self.literals}:",
    ),
    Mutant(
        "brackets-in-globs", "route.pattern.glob", "capability",
        'fnmatch.translate(text.replace("[", "[[]"))', "fnmatch.translate(text)",
    ),
    Mutant(
        "versions-as-doubles", "route.pattern.comparison", "capability",
        "_COMPARE[self.comparison](number, Decimal(self.operand))",
        "_COMPARE[self.comparison](float(number), float(self.operand))",
    ),
    Mutant(
        "missing-key-is-unequal", "route.match.all-keys", "capability",
        "            value = capability.get(key)\n", '            value = capability.get(key, "")\n',
    ),
    Mutant(
        "name-by-capability-never", "route.name.capability", "agent.registry",
        'if r.capability.get("model") == model_name\n        ]\n        return _of_version', "if False\n        ]\n        return _of_version",
    ),
    Mutant(
        "given-version-as-number", "route.version.text", "agent.registry",
        "        return [r for r, version in candidates if version == wanted]",
        "        return [r for r, version in candidates if version == wanted or decimal(version) == decimal(wanted)]",
    ),
    Mutant(
        "versionless-not-preferred", "route.version.none", "agent.registry",
        "    if any(not version for _, version in candidates):", "    if all(not version for _, version in candidates):",
    ),
    Mutant(
        "version-chosen-as-text", "route.version.newest", "agent.registry",
        "        newest = max(known)\n", "        newest = max(known, key=str)\n",
    ),
    Mutant(
        "streaming-served-as-unary", "route.unary.only", "agent.registry",
        "            if not (target.unary_only and registration.stream):", "            if True:",
    ),
    Mutant(
        "exactness-ignored", "route.rank.exact", "agent.registry",
        "rank = (-exact, -registration.priority, len(registration.capability))",
        "rank = (0, -registration.priority, len(registration.capability))",
    ),
    Mutant(
        "priority-ignored", "route.rank.priority", "agent.registry",
        "rank = (-exact, -registration.priority, len(registration.capability))",
        "rank = (-exact, 0, len(registration.capability))",
    ),
    Mutant(
        "most-keys-first", "route.rank.fewest-keys", "agent.registry",
        "rank = (-exact, -registration.priority, len(registration.capability))",
        "rank = (-exact, -registration.priority, -len(registration.capability))",
    ),
    Mutant(
        "busiest-worker-chosen", "route.load.fewest", "agent.queues",
        "rank = (load.in_flight, load.last_chosen)", "rank = (-load.in_flight, load.last_chosen)",
    ),
    Mutant(
        "no-turns", "route.load.turns", "agent.queues",
        "rank = (load.in_flight, load.last_chosen)", "rank = (load.in_flight, 0)",
    ),
]  # fmt: skip

_QUEUES = [
    Mutant(
        "last-come-first-served", "queue.order.arrival", "agent.queues",
        "setdefault(ticket.lane, deque()).append(ticket)",
        "setdefault(ticket.lane, deque()).appendleft(ticket)",
    ),
    Mutant(
        "queue-without-bound", "queue.bound.full", "agent.queues",
        "        if self._depth(_queue_key(ticket.tier)) >= self._queue_size:", "        if False:",
    ),
    Mutant(
        "queue-one-too-long", "queue.bound.full", "agent.queues",
        "        if self._depth(_queue_key(ticket.tier)) >= self._queue_size:", "        if self._depth(_queue_key(ticket.tier)) > self._queue_size:",
    ),
    Mutant(
        "one-bound-for-all-queues", "queue.bound.separate", "agent.queues",
        "        if self._depth(_queue_key(ticket.tier)) >= self._queue_size:", "        if self.waiting >= self._queue_size:",
    ),
    Mutant(
        "withdrawn-and-still-there", "queue.cancel.removed", "agent.queues",
        "        lanes[ticket.lane].remove(ticket)\n        if not lanes[ticket.lane]:\n            del lanes[ticket.lane]\n", "",
    ),
    Mutant(
        "changes-not-considered", "queue.change.again", "agent.queues",
        "                self._enqueue(ticket)  # it was accepted once, so it is not refused now\n        self._serve()\n",
        "                self._enqueue(ticket)  # it was accepted once, so it is not refused now\n",
    ),
    Mutant(
        "waits-for-ever", "queue.change.gone", "agent.queues",
        "                ticket.granted(None)\n", "                pass\n",
    ),
]  # fmt: skip

_MANAGEMENT = [
    Mutant(
        "unknown-heartbeat-is-healthy", "manage.heartbeat.unknown", "agent.workers",
        "        if known is None:\n            return False\n        known.last_heartbeat",
        "        if known is None:\n            return True\n        known.last_heartbeat",
    ),
    Mutant(
        "known-heartbeat-is-unhealthy", "manage.heartbeat.known", "agent.workers",
        "        self.expect_no_more((worker_id,))\n        return True\n", "        self.expect_no_more((worker_id,))\n        return False\n",
    ),
    Mutant(
        "batches-before-the-registration", "manage.heartbeat.batches-counted", "agent.management_service",
        "        if healthy and request.batches:\n            self._count(",
        "        if not healthy and request.batches:\n            self._count(",
    ),
    Mutant(
        "batches-of-others", "manage.heartbeat.batches-ignored", "agent.management_service",
        "for r in self._registry.of_worker(worker_id)}", "for r in self._registry}",
    ),
    Mutant(
        "batches-of-size-0", "manage.heartbeat.batches-ignored", "agent.management_service",
        "registration is not None and told.batch_size and told.count:", "registration is not None:",
    ),
    Mutant(
        "unregister-removes-every-replica", "manage.unregister.model", "agent.registry",
        "            r for r in self.of_worker(worker_id) if (r.model_name", "            r for r in self if (r.model_name",
    ),
    Mutant(
        "unregister-model-removes-all-versions", "manage.unregister.model", "agent.registry",
        "if (r.model_name, r.model_version) == (model_name, model_version)\n        )", "if r.model_name == model_name\n        )",
    ),
    Mutant(
        "unregister-worker-removes-nothing", "manage.unregister.worker", "agent.registry",
        "        return self._remove(self.of_worker(worker_id))", "        return []",
    ),
    Mutant(
        "unknown-unregister-succeeds", "manage.unregister.unknown", "agent.workers",
        "        if worker_id not in self._known:\n            return False\n", "        if worker_id not in self._known:\n            return True\n",
    ),
    Mutant(
        "replica-replaces", "manage.register.replica", "agent.registry",
        "        return (self.worker_id, *self.model_key)", '        return ("", *self.model_key)',
    ),
    Mutant(
        "address-not-moved", "manage.register.address", "agent.workers",
        "            known.client = self._new_client(registration)\n        if known is None:", "        if known is None:",
    ),
    Mutant(
        "default-capability-without-version", "manage.register.default-capability", "agent.management_service",
        '            items["model"] = request.model_version\n', "            pass\n",
    ),
    Mutant(
        "long-names-taken", "manage.register.text", "agent.management_service",
        "    if len(value) > MAX_NAME_LENGTH or not", "    if not",
    ),
    Mutant(
        "empty-worker-id-taken", "manage.register.worker-id", "agent.management_service",
        '    if not request.worker_id:\n        raise InferenceError(Code.INVALID_ARGUMENT, "worker_id is empty")\n    if not request.model_name',
        "    if not request.model_name",
    ),
    Mutant(
        "any-address-taken", "manage.register.scheme", "agent.management_service",
        "    if not address.startswith(ADDRESS_PREFIX) or not path.startswith(\"/\") or \"\\0\" in path:", "    if False:",
    ),
    Mutant(
        "any-concurrency-taken", "manage.register.concurrency", "agent.management_service",
        "    if request.max_concurrency > MAX_CONCURRENCY:", "    if False:",
    ),
    Mutant(
        "workers-without-limit", "manage.register.max-workers", "agent.registry",
        "        if not of_worker and len(self._by_worker) >= self._max_workers:", "        if False:",
    ),
    Mutant(
        "silent-workers-stay", "manage.loss.timeout", "agent.workers",
        "now - known.last_heartbeat > self._config.heartbeat_timeout:", "False:",
    ),
    Mutant(
        "dropped-too-early", "manage.loss.not-early", "agent.workers",
        "now - known.last_heartbeat > self._config.heartbeat_timeout:",
        "now - known.last_heartbeat > self._config.heartbeat_timeout / 4:",
    ),
    Mutant(
        "patient-with-the-refused", "manage.loss.refused", "agent.workers",
        "if known is not None and known.last_heartbeat is None and error.refused:", "if False:",
    ),
    Mutant(
        "impatient-with-heartbeats", "manage.loss.patient", "agent.workers",
        "if known is not None and known.last_heartbeat is None and error.refused:", "if known is not None and error.refused:",
    ),
    Mutant(
        "full-backlog-drops", "manage.loss.backlog", "agent.worker_client",
        'raise Unreachable("its accept backlog is full") from None', 'raise Unreachable("its accept backlog is full", refused=True) from None',
    ),
    Mutant(
        "priority-not-listed", "manage.list.registration", "agent.management_service",
        "        priority=registration.priority,\n        platform=registration.platform,\n    )\n\n\ndef _event", "        platform=registration.platform,\n    )\n\n\ndef _event",
    ),
    Mutant(
        "sequence-skips", "manage.event.sequence", "agent.events",
        "        self._sequence += 1\n", "        self._sequence += 2\n",
    ),
    Mutant(
        "loss-not-told", "manage.event.types", "agent.workers",
        "        self._events.publish(EventType.WORKER_LOST, worker_id=worker_id, message=reason)\n", "",
    ),
    Mutant(
        "existing-not-told", "manage.event.existing", "agent.management_service",
        "existing = tuple(self._registry) if request.include_existing else ()", "existing = ()",
    ),
    Mutant(
        "watchers-without-limit", "manage.event.max-watchers", "agent.events",
        "        if len(self._watchers) >= self._max_watchers:", "        if False:",
    ),
    Mutant(
        "token-not-asked-for", "manage.token.required", "agent.management_service",
        "return () if token is None else (", "return () if True else (",
    ),
]  # fmt: skip

_SERVING = [
    Mutant(
        "unknown-model-unavailable", "serving.infer.not-found", "agent.dispatcher",
        'return InferenceError(Code.NOT_FOUND, f"no worker serves {target}{hint}")',
        'return InferenceError(Code.UNAVAILABLE, f"no worker serves {target}{hint}")',
    ),
    Mutant(
        "reserved-parameters-taken", "serving.infer.reserved-parameter", "agent.kserve_service",
        "            if name.startswith(RESERVED_PREFIX):", "            if False:",
    ),
    Mutant(
        "streaming-not-named", "serving.infer.streaming-capability", "agent.dispatcher",
        "if target.unary_only and (self._registry.resolve(every).tiers or workers.expected_to_serve(every)):", "if False:",
    ),
    Mutant(
        "deadline-ignored", "serving.infer.deadline", "agent.dispatcher",
        "            raise _deadline_exceeded(request) from None\n\n    async def stream",
        '            raise InferenceError(Code.UNAVAILABLE, "late") from None\n\n    async def stream',
    ),
    Mutant(
        "death-is-internal", "serving.infer.worker-died", "agent.dispatcher",
        '            raise InferenceError(Code.UNAVAILABLE, f"{error} ({request.target})") from error',
        '            raise InferenceError(Code.INTERNAL, f"{error} ({request.target})") from error',
    ),
    Mutant(
        "long-messages-whole", "serving.status.message-length", "agent.grpc_calls",
        "    if len(_quoted(clean)) <= MAX_STATUS_MESSAGE:", "    if len(clean) <= MAX_STATUS_MESSAGE:",
    ),
    Mutant(
        "socket-path-in-message", "serving.status.private", "agent.dispatcher",
        'Code.UNAVAILABLE, f"{request.target}: workers that serve it exist, but none can be reached"',
        'Code.UNAVAILABLE, f"{request.target}: none of {[r.socket_path for r in resolve().registrations]} '
        'unix: can be reached"',
    ),
    Mutant(
        "versions-unsorted", "serving.metadata.versions", "agent.registry",
        '        return sorted(found - {""}, key=_version_order)', '        return sorted(found - {""})',
    ),
    Mutant(
        "failures-counted-as-success", "serving.statistics.fail", "agent.statistics",
        "            counts.fail.add(queue_ns + compute_ns)", "            counts.success.add(queue_ns + compute_ns)",
    ),
    Mutant(
        "batches-not-summed", "serving.statistics.batches", "agent.statistics",
        "counts.batches.setdefault(size, Count()).add_told(", "counts.batches.setdefault(size, Count()).__init__(",
    ),
    Mutant(
        "sizes-as-they-came", "serving.statistics.batches", "agent.model_info",
        "in sorted(counts.batches.items())", "in counts.batches.items()",
    ),
    Mutant(
        "executions-are-requests", "serving.statistics.executions", "agent.model_info",
        "counts.calls.count or counts.success.count", "counts.success.count",
    ),
    Mutant(
        "sizes-without-limit", "serving.statistics.sizes", "agent.statistics",
        "len(counts.batches) < MAX_SIZES", "len(counts.batches) >= 0",
    ),
    Mutant(
        "sums-begin-anew", "serving.statistics.sums", "agent.statistics",
        "self.ns = min(MOST, self.ns + ns)", "self.ns = (self.ns + ns) % (MOST + 1)",
    ),
    Mutant(
        "load-names-the-repository", "serving.repository.name", "agent.kserve_service",
        "        name = request.model_name or request.repository_name  # Triton's form",
        "        name = request.repository_name or request.model_name  # Triton's form",
    ),
    Mutant(
        "foreign-unload-not-found", "serving.repository.foreign", "agent.model_info",
        "            Code.FAILED_PRECONDITION,\n", "            Code.NOT_FOUND,\n",
    ),
    Mutant(
        "unknown-model-is-an-error", "serving.model.not-ready", "agent.kserve_service",
        "        return pb.ModelReadyResponse(ready=self._info.is_ready(request.name, request.version))",
        "        return pb.ModelReadyResponse(ready=self._info.is_ready(request.name, request.version) or not request.name)",
    ),
    Mutant(
        "ready-while-draining", "lifecycle.drain.not-ready", "agent.agent",
        "        self._standard.set_serving(False)\n        self._standard.close()\n", "",
    ),
    Mutant(
        "drain-cuts-calls", "lifecycle.drain.finish", "agent.agent",
        "        await self._kserve.calls_ended(grace)\n        await self._server.stop(LAST_REPLIES)\n",
        "        await self._server.stop(None)\n",
    ),
    Mutant(
        "new-calls-while-draining", "serving.infer.draining", "agent.kserve_service",
        "        if self._draining.is_set() and not self._is_own(context):", "        if False:",
    ),
]  # fmt: skip

_STREAMS = [
    Mutant(
        "one-request-at-a-time", "stream.request.concurrent", "agent.kserve_service",
        "                    running.create_task(self._one(payload, facts))", "                    await self._one(payload, facts)",
    ),
    Mutant(
        "failure-ends-the-call", "stream.error.in-band", "agent.kserve_service",
        "            await self._fail(head, error.code, error.message)\n        finally:", "            raise\n        finally:",
    ),
    Mutant(
        "failure-without-id", "stream.error.id", "agent.kserve_service",
        "        await self._replies.put(error_reply(head, code, message))",
        "        await self._replies.put(error_reply(MessageHead(), code, message))",
    ),
    Mutant(
        "worker-error-is-the-end", "stream.error.not-the-end", "agent.dispatcher",
        "            await write(filled)\n        self._finish(exchange, registration)",
        "            await write(filled)\n            if error:\n                exchange.leave()\n                return failed\n"
        "        self._finish(exchange, registration)",
    ),
    Mutant(
        "stream-ids-not-filled", "stream.reply.fill", "agent.dispatcher",
        "    fields = _missing_fields(head, request, registration)\n    if final and", '    fields = b""\n    if final and',
    ),
    Mutant(
        "second-field-2-appended", "stream.reply.extend", "agent.dispatcher",
        "filled = extend_response(frame, reply, fields) if fields else frame",
        "filled = frame + submessage_field(INFER_RESPONSE_FIELD, fields) if fields else frame",
    ),
    Mutant(
        "no-final-response", "stream.final.extra", "agent.dispatcher",
        "        if final and not marked_final:\n", "        if False:\n",
    ),
    Mutant(
        "final-response-unasked", "stream.final.unasked", "agent.dispatcher",
        "        final = request.head.parameters.get(EMPTY_FINAL_RESPONSE) is True", "        final = True",
    ),
    Mutant(
        "any-value-asks", "stream.final.asked", "agent.dispatcher",
        "        final = request.head.parameters.get(EMPTY_FINAL_RESPONSE) is True",
        "        final = bool(request.head.parameters.get(EMPTY_FINAL_RESPONSE))",
    ),
    Mutant(
        "unary-not-marked", "stream.final.unary", "agent.dispatcher",
        "            if final:\n                reply += parameter_bytes(FINAL_RESPONSE, True)\n", "",
    ),
    Mutant(
        "reads-without-bound", "stream.flow.stop", "agent.worker_client",
        "        if len(self._frames) >= READ_AHEAD_FRAMES or self._buffered >= READ_AHEAD_BYTES:", "        if False:",
    ),
    Mutant(
        "never-reads-on", "stream.flow.resume", "agent.worker_client",
        "            self._transport.resume_reading()\n", "            pass\n",
    ),
    Mutant(
        "requests-without-limit", "stream.request.limit", "agent.kserve_service",
        "                    await self._places.acquire()\n", "",
    ),
    Mutant(
        "cut-stream-ends-well", "stream.reply.cut-off", "agent.dispatcher",
        "    except WorkerGone as error:\n        raise InferenceError(Code.UNAVAILABLE, str(error)) from error\n    except ProtocolViolation as violation:\n        raise _broke_protocol(violation) from violation\n\n\ndef _broke",
        "    except WorkerGone:\n        return b\"\"\n    except ProtocolViolation as violation:\n        raise _broke_protocol(violation) from violation\n\n\ndef _broke",
    ),
    Mutant(
        "takes-requests-while-draining", "stream.drain.no-more", "agent.kserve_service",
        "    return None if stopping.done() else reading.result()",
        "    await asyncio.wait((reading,))\n    return reading.result()",
    ),
]  # fmt: skip

_WORKERS = [
    Mutant(
        "worker-writes-little-endian", "frame.length.format", "framing",
        'return length.to_bytes(HEADER_SIZE, "big")', 'return length.to_bytes(HEADER_SIZE, "little")', "worker",
    ),
    Mutant(
        "worker-without-limit", "frame.length.limit", "framing",
        "if length > self._limit:", "if False:", "worker",
    ),
    Mutant(
        "worker-never-registers-again", "lifecycle.worker.again", "worker.registration",
        "        if not known and healthy:\n            return await self._beat(healthy=False)", "        if not known and healthy:\n            return True", "worker",
    ),
    Mutant(
        "worker-just-goes", "lifecycle.worker.leave", "worker.registration",
        '            await self._call("UnregisterWorker", ', '            await self._call("Heartbeat", ', "worker",
    ),
    Mutant(
        "worker-takes-no-for-yes", "manage.register.refused", "worker.registration",
        "            if not answer.success:", "            if False:", "worker",
    ),
    Mutant(
        "worker-drops-requests-under-way", "lifecycle.worker.drain", "worker.server",
        "                while not all(connection.idle for connection in self._connections):", "                while False:", "worker",
    ),
    Mutant(
        "worker-handlers-go-on", "frame.cancel.stop", "worker.server",
        "        self._writable.set()\n        self.task.cancel()\n", "        self._writable.set()\n", "worker",
    ),
    Mutant(
        "worker-lets-anybody-in", "lifecycle.worker.socket", "worker.server",
        "        if (uid := untrusted_peer(sock)) is not None:", "        if (uid := None) is not None:", "worker",
    ),
]  # fmt: skip

MUTANTS = {
    m.name: m for m in (*_FRAMES, *_SHARED_MEMORY, *_ROUTES, *_QUEUES, *_MANAGEMENT, *_SERVING, *_STREAMS, *_WORKERS)
}
"""All of them by name."""
