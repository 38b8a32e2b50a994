// Cuts what an agent sends into requests, also those by reference. Pure: bytes in, requests out (`frame.length.*`,
// `frame.shared.*`).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "anyserve/framing.hpp"

namespace anyserve {

/// What a request frame says.
struct RequestFrame {
    std::string bytes;       ///< the payload, or what of it stands behind the header
    std::uint64_t body = 0;  ///< bytes in the shared memory of a descriptor; they come first
    std::uint64_t room = 0;  ///< bytes of the shared memory of another descriptor, for the reply
};

/// A `FrameReader` that takes frames by reference too.
class RequestReader {
public:
    /// `limit`: the greatest payload that is taken, with what of it is in shared memory.
    explicit RequestReader(std::size_t limit) noexcept : limit_(limit), reader_(limit) {}

    /// As of `FrameReader`.
    [[nodiscard]] std::span<char> room() { return in_payload_ ? reader_.room() : std::span<char>(); }
    /// `by_reference`: whether frames by reference are taken, or are lengths above the limit as they are elsewhere.
    [[nodiscard]] bool take(std::size_t in_room, std::string_view behind, bool by_reference,
                            std::vector<RequestFrame>& frames);
    [[nodiscard]] bool unfinished() const noexcept { return in_payload_ || head_size_ > 0; }
    [[nodiscard]] std::size_t held() const noexcept { return in_payload_ ? reader_.held() : head_size_; }
    [[nodiscard]] std::uint64_t refused_length() const noexcept { return refused_; }

private:
    [[nodiscard]] bool take_head(std::string_view& bytes, bool by_reference, std::vector<RequestFrame>& frames);
    [[nodiscard]] bool begin(std::uint32_t length, std::vector<RequestFrame>& frames);
    void take_payload(std::size_t in_room, std::string_view& behind, std::vector<RequestFrame>& frames);

    std::size_t limit_;
    FrameReader reader_;
    std::array<unsigned char, kReferenceHeaderBytes> head_{};
    std::size_t head_size_ = 0;
    RequestFrame frame_;
    bool in_payload_ = false;
    std::size_t left_ = 0;  // of the payload under way
    std::uint64_t refused_ = 0;
    std::vector<std::string> payloads_;
};

}  // namespace anyserve
