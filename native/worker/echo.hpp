// What the echo worker answers. Pure: a request's bytes in, reply payloads out.
#pragma once

#include <memory>
#include <string>

#include "worker_server.hpp"

namespace anyserve {

/// Answers a ModelInferRequest.
///
/// A unary request gets its tensors back, as they came: `inputs` as `outputs`, `raw_input_contents` as
/// `raw_output_contents`. A request for the capability `type=tokens`, or without one for the model `tokens`, gets a
/// stream: as many small responses as its parameter `tokens` says (1 if it does not), and the empty frame.
[[nodiscard]] std::unique_ptr<Replies> echo(std::string request);

}  // namespace anyserve
