// One capability of a worker, as its program has declared it.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

#include "anyserve/framing.hpp"
#include "anyserve/worker.hpp"
#include "handler_table.hpp"

namespace anyserve {

/// What the agent may append to a request (`frame.limit.request`).
inline constexpr std::size_t kAppendedBytes = std::size_t{128} << 10;
/// The greatest `max_message_bytes`: a frame has no more, with what is appended.
inline constexpr std::size_t kMostMessageBytes = kMaxFrameLength - kAppendedBytes;

struct Declared {
    Served served;
    std::map<std::string, std::string> capability;
    CapabilityOptions options;
    Worker::Handler handler;
    Worker::StreamHandler stream_handler;  // one of the two
};

/// Checks the declaration, and fills in what it leaves out. Throws std::invalid_argument with what is wrong.
[[nodiscard]] Declared declare(const std::map<std::string, std::string>& capability, CapabilityOptions options);

/// Throws std::invalid_argument: an option is out of its range.
void check_options(const WorkerOptions& options);

/// The RegisterModelRequest, serialized.
[[nodiscard]] std::string register_request(const Declared& declared, std::string_view worker_id,
                                           std::string_view socket_path);

}  // namespace anyserve
