#include "anyserve/grpc_message.hpp"

#include <zlib.h>

#include <algorithm>
#include <utility>

#include "anyserve/message_room.hpp"

namespace anyserve {
namespace {

constexpr std::size_t kPrefixBytes = 5;
constexpr int kZlibOrGzip = 15 + 32;  // the largest window; zlib looks which of the two headers is there

}  // namespace

Encoding parse_encoding(std::string_view name) noexcept {
    if (name.empty() || name == "identity") return Encoding::identity;
    if (name == "gzip") return Encoding::gzip;
    if (name == "deflate") return Encoding::deflate;
    return Encoding::unknown;
}

std::array<char, 5> message_prefix(std::size_t length) noexcept {
    const auto byte = [length](unsigned shift) { return static_cast<char>((length >> shift) & 0xFF); };
    return {0, byte(24), byte(16), byte(8), byte(0)};
}

MessageReader::Step MessageReader::feed(std::string_view bytes) {
    if (!in_body_) {
        const std::size_t count = std::min(bytes.size(), kPrefixBytes - prefix_size_);
        std::copy_n(bytes.begin(), count, prefix_.begin() + static_cast<std::ptrdiff_t>(prefix_size_));
        prefix_size_ += count;
        if (prefix_size_ < kPrefixBytes) return {count, Event::more};
        return {count, read_prefix().value_or(Event::error)};
    }
    const std::size_t count = put(bytes.substr(0, std::min(bytes.size(), length_ - filled_)));
    if (filled_ < length_) return {count, Event::more};
    return {count, finish_message() ? Event::message : Event::error};
}

std::size_t MessageReader::put(std::string_view bytes) {
    if (shared_) {
        std::copy(bytes.begin(), bytes.end(), shared_->data() + filled_);
    } else {
        if (message_.capacity() - filled_ < bytes.size()) {
            // In doublings as std::string has it, but never above the announced length.
            message_.reserve(std::min(length_, std::max(message_.capacity() * 2, filled_ + bytes.size())));
        }
        message_.append(bytes);
    }
    filled_ += bytes.size();
    return bytes.size();
}

Payload MessageReader::take() noexcept {
    if (shared_) return {std::move(shared_), length_};
    return std::exchange(message_, {});
}

std::optional<MessageReader::Event> MessageReader::read_prefix() {
    const unsigned flag = prefix_[0];
    length_ = (std::size_t{prefix_[1]} << 24) | (std::size_t{prefix_[2]} << 16) | (std::size_t{prefix_[3]} << 8) |
              std::size_t{prefix_[4]};
    if (flag > 1) {
        error_ = {Code::internal, "a message has the unknown compressed flag " + std::to_string(flag)};
        return std::nullopt;
    }
    if (flag == 1 && encoding_ == Encoding::identity) {
        error_ = {Code::internal, "a message has the compressed flag in a call without grpc-encoding"};
        return std::nullopt;
    }
    if (flag == 1 && encoding_ == Encoding::unknown) {
        error_ = {Code::unimplemented,
                  "a message has an unknown grpc-encoding; known are " + std::string(kAcceptedEncodings)};
        return std::nullopt;
    }
    if (length_ > max_bytes_) {
        error_ = {Code::resource_exhausted, "a message of " + std::to_string(length_) +
                                                " bytes is above the limit of " + std::to_string(max_bytes_)};
        return std::nullopt;
    }
    in_body_ = true;
    filled_ = 0;
    message_.clear();
    shared_ = memory_ != nullptr && flag == 0 ? memory_->body(length_) : nullptr;
    if (!shared_) make_room(message_, length_);
    return Event::prefix;
}

bool MessageReader::finish_message() {
    in_body_ = false;
    prefix_size_ = 0;
    if (prefix_[0] == 0) return true;
    std::optional<std::string> plain = decompress(message_, max_bytes_, error_);
    if (!plain) return false;
    message_ = *std::move(plain);
    return true;
}

std::optional<std::string> decompress(std::string_view bytes, std::size_t max_bytes, MessageError& error) {
    z_stream stream{};
    if (inflateInit2(&stream, kZlibOrGzip) != Z_OK) {
        error = {Code::internal, "no memory to decompress a message"};
        return std::nullopt;
    }
    struct End {
        z_stream* stream;
        ~End() { inflateEnd(stream); }
    } end{&stream};
    // zlib only reads through next_in; its type is older than const.
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
    stream.avail_in = static_cast<uInt>(bytes.size());  // at most 2^32 - 1, as a prefix has it
    std::string plain;
    // One byte more than may be: that byte tells a message at the limit from one above it.
    const std::size_t most = max_bytes + 1;
    for (;;) {
        const std::size_t before = plain.size();
        plain.resize(std::min(most, std::max<std::size_t>(before * 2, bytes.size() * 4 + 64)));
        const std::size_t room = std::min<std::size_t>(plain.size() - before, std::size_t{1} << 30);
        stream.next_out = reinterpret_cast<Bytef*>(plain.data() + before);
        stream.avail_out = static_cast<uInt>(room);
        const int state = inflate(&stream, Z_NO_FLUSH);
        plain.resize(before + room - stream.avail_out);
        if (plain.size() > max_bytes) {
            error = {Code::resource_exhausted,
                     "a message has more than " + std::to_string(max_bytes) + " bytes when it is decompressed"};
            return std::nullopt;
        }
        if (state == Z_STREAM_END && stream.avail_in == 0) return plain;
        const bool progress = state == Z_OK && stream.avail_out == 0;
        if (!progress) {
            error = {Code::internal, "a compressed message cannot be decompressed"};
            return std::nullopt;
        }
    }
}

}  // namespace anyserve
