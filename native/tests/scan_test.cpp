#include "anyserve/scan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "registry_vectors.hpp"
#include "vectors.hpp"

namespace anyserve {
namespace {

using std::string_view_literals::operator""sv;
using vectors::bytes_of;
using vectors::Json;
using vectors::text_or_empty;

/// What is read of a message, to be compared: doubles by their bits.
struct Reading {
    std::string error_message;
    bool response = false;
    std::string model_name;
    std::string model_version;
    std::string id;
    std::map<std::string, std::string> parameters;

    friend bool operator==(const Reading&, const Reading&) = default;
    friend std::ostream& operator<<(std::ostream& out, const Reading& reading) {
        out << reading.error_message << "|" << reading.response << "|" << reading.model_name << "|"
            << reading.model_version << "|" << reading.id;
        for (const auto& [name, value] : reading.parameters) out << "|" << name << "=" << value;
        return out;
    }
};

std::string written(const Parameter& value) {
    struct {
        std::string operator()(std::monostate) const { return "nothing"; }
        std::string operator()(bool choice) const { return choice ? "true" : "false"; }
        std::string operator()(std::int64_t number) const { return "int64 " + std::to_string(number); }
        std::string operator()(std::uint64_t number) const { return "uint64 " + std::to_string(number); }
        std::string operator()(double number) const {
            return "double " + std::to_string(std::isnan(number) ? 1 : std::bit_cast<std::uint64_t>(number));
        }
        std::string operator()(std::string_view text) const { return "text " + std::string(text); }
    } constexpr write;
    return std::visit(write, value);
}

/// The value of a parameter in protobuf's JSON: integers of 64 bits are texts, and so are NaN and infinity.
std::string written(const Json& parameter) {
    if (parameter.empty()) return "nothing";
    const std::string choice = parameter.begin().key();
    const Json& value = parameter.begin().value();
    if (choice == "bool_param") return written(Parameter(value.get<bool>()));
    if (choice == "int64_param") return "int64 " + value.get<std::string>();
    if (choice == "uint64_param") return "uint64 " + value.get<std::string>();
    if (choice == "string_param") return "text " + vectors::as_text(value);
    EXPECT_EQ(choice, "double_param");
    return written(Parameter(value.is_string() ? std::stod(value.get<std::string>()) : value.get<double>()));
}

Reading reading_of(const MessageHead& head, std::string error_message = {}) {
    Reading reading{std::move(error_message), true, std::string(head.model_name), std::string(head.model_version),
                    std::string(head.id),     {}};
    for (const auto& [name, value] : head.parameters) {
        EXPECT_TRUE(reading.parameters.emplace(name, written(value)).second) << name << " stands twice";
    }
    return reading;
}

std::optional<Reading> scanned(const std::string& kind, std::string_view data) {
    if (kind == "stream-reply") {
        StreamReply reply;
        if (scan_stream_reply(data, reply)) return std::nullopt;
        EXPECT_EQ(reply.response.has_value(), !reply.parts.empty());
        if (reply.response) return reading_of(*reply.response, std::string(reply.error_message));
        return Reading{std::string(reply.error_message), false, {}, {}, {}, {}};
    }
    MessageHead head;
    if (scan_message(data, kind == "request" ? kRequestFields : kResponseFields, head)) return std::nullopt;
    return reading_of(head);
}

Reading wanted(const Json& vector) {
    Json fields = vector.at("fields");
    Reading reading;
    if (vector.at("kind") == "stream-reply") {
        reading.error_message = text_or_empty(fields, "error_message");
        fields = fields.value("infer_response", Json());
        if (fields.is_null()) return reading;
    }
    reading.response = true;
    reading.model_name = text_or_empty(fields, "model_name");
    reading.model_version = text_or_empty(fields, "model_version");
    reading.id = text_or_empty(fields, "id");
    const Json parameters = fields.value("parameters", Json::object());
    for (const auto& [name, value] : parameters.items()) {
        reading.parameters[name] = written(value);
    }
    return reading;
}

/// Cut to the lengths that the vector names it is well formed, to any other malformed.
void check_cuts(const Json& vector, std::string_view bytes) {
    const auto whole_at = vector.at("whole_at").get<std::vector<std::size_t>>();
    ASSERT_EQ(whole_at.back(), bytes.size());
    for (std::size_t size = 0; size <= bytes.size(); ++size) {
        const bool whole = std::find(whole_at.begin(), whole_at.end(), size) != whole_at.end();
        const std::string cut(bytes.substr(0, size));  // its own memory: reading on would be seen by a sanitizer
        EXPECT_EQ(scanned(vector.at("kind"), cut).has_value(), whole) << size;
    }
}

TEST(ScanVectors, AllOfThem) {
    const std::string unknown = bytes_of("7801 7a0161 7d00000000 790000000000000000");
    std::size_t count = 0;
    for (const Json& vector : vectors::load("scan.json")) {
        SCOPED_TRACE(vector.at("name"));
        const std::string kind = vector.at("kind");
        const std::string bytes = bytes_of(vector.at("bytes"));
        ++count;
        if (vector.value("malformed", false)) {
            EXPECT_EQ(scanned(kind, bytes), std::nullopt);
            EXPECT_EQ(scanned(kind, unknown + bytes), std::nullopt);
            continue;
        }
        EXPECT_EQ(scanned(kind, bytes), wanted(vector));
        EXPECT_EQ(scanned(kind, unknown + bytes + unknown), wanted(vector));
        if (vector.contains("whole_at")) check_cuts(vector, bytes);
    }
    EXPECT_GE(count, 190U);
}

TEST(ScanMessage, SaysWhatIsMalformed) {
    const std::vector<std::pair<std::string_view, std::string_view>> cases = {
        {"\x0a"sv, "a varint is cut off"},
        {"\x0a\x05"
         "abc"sv,
         "field 1 is cut off"},
        {"\x0a\x02\xff\xfe"sv, "model_name is not UTF-8"},
        {"\x12\x01\xff"sv, "model_version is not UTF-8"},
        {"\x1a\x01\xff"sv, "id is not UTF-8"},
        {"\x08\x01"sv, "field 1 has wire type 0"},
        {"\x3d\0\0\0\0"sv, "field 7 has wire type 5"},
        {"\x0b"sv, "field 1 has wire type 3, which proto3 does not use"},
        {"\x00"sv, "a field number is out of range"},
        {"\x80\x80\x80\x80\x10"sv, "a field number is out of range"},
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"sv, "a varint is longer than 10 bytes"},
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"sv, "a varint does not fit in 64 bits"},
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"sv, "field 1 is cut off"},
        {"\x45\0\0\0"sv, "field 8 is cut off"},
        {"\x41\0\0\0\0\0\0\0"sv, "field 8 is cut off"},
        {"\x22\x02\x08\x01"sv, "a parameters entry's field 1 has wire type 0"},
        {"\x22\x03\x0a\x01\xff"sv, "a parameter's name is not UTF-8"},
        {"\x22\x05\x12\x03\x1a\x01\xff"sv, "a string parameter is not UTF-8"},
        {"\x22\x06\x0a\x01k\x12\x01\x0a"sv, "a varint is cut off"},
        {"\x22\x07\x0a\x01k\x12\x02\x0a\x00"sv, "InferParameter field 1 has wire type 2"},
    };
    for (const auto& [bytes, message] : cases) {
        MessageHead head;
        const Malformed malformed = scan_message(bytes, kRequestFields, head);
        EXPECT_TRUE(malformed);
        EXPECT_EQ(malformed.message, message);
    }
}

TEST(ScanMessage, ReadsOnIntoWhatAnEarlierPartSaid) {
    std::string first;
    append_bytes_field(first, 1, "before");
    append_bytes_field(first, 3, "7");
    append_parameter(first, "kept", true);
    append_parameter(first, "again", std::int64_t{1});
    std::string second;
    append_bytes_field(second, 1, "after");
    append_bytes_field(second, 5, "a tensor");
    append_parameter(second, "again", "two"sv);
    MessageHead apart;
    ASSERT_FALSE(scan_message(first, kRequestFields, apart));
    EXPECT_FALSE(apart.tensors);
    ASSERT_FALSE(scan_message(second, kRequestFields, apart));
    MessageHead together;
    const std::string both = first + second;
    ASSERT_FALSE(scan_message(both, kRequestFields, together));
    EXPECT_EQ(reading_of(apart), reading_of(together));
    EXPECT_EQ(apart.model_name, "after");
    EXPECT_EQ(apart.id, "7");
    EXPECT_TRUE(apart.tensors && together.tensors);
    EXPECT_TRUE(apart.is_true("kept"));
    EXPECT_FALSE(apart.is_true("again"));
    EXPECT_FALSE(apart.is_true("missing"));
    EXPECT_EQ(*apart.parameter("again"), Parameter("two"sv));
    EXPECT_EQ(apart.parameter("missing"), nullptr);
}

TEST(ScanMessage, CopiesNothing) {
    std::string data;
    append_bytes_field(data, 1, "a model's name that is too long for a short string");
    append_parameter(data, "name", "value"sv);
    MessageHead head;
    ASSERT_FALSE(scan_message(data, kRequestFields, head));
    const auto within = [&data](std::string_view view) {
        return view.data() >= data.data() && view.data() + view.size() <= data.data() + data.size();
    };
    EXPECT_TRUE(within(head.model_name));
    ASSERT_EQ(head.parameters.size(), 1U);
    EXPECT_TRUE(within(head.parameters[0].first));
    EXPECT_TRUE(within(std::get<std::string_view>(head.parameters[0].second)));
}

TEST(ScanMessage, AllocatesNothingWithoutParameters) {
    std::string data;
    append_bytes_field(data, 1, "echo");
    append_bytes_field(data, 5, std::string(64, 't'));
    MessageHead head;
    ASSERT_FALSE(scan_message(data, kRequestFields, head));
    EXPECT_EQ(head.parameters.capacity(), 0U);
}

/// Whether the last value of each of so many names is found, when each stands several times in each of several parts.
void check_many(std::int64_t names, std::int64_t rounds, std::size_t parts) {
    const auto name = [](std::int64_t i) { return "parameter" + std::to_string(i * 7919 % 100'003); };
    std::vector<std::string> data(parts);
    std::int64_t value = 0;
    for (std::string& part : data) {
        for (std::int64_t round = 0; round < rounds; ++round) {
            for (std::int64_t i = 0; i < names; ++i) append_parameter(part, name(i), ++value);
        }
    }
    MessageHead head;
    for (const std::string& part : data) ASSERT_FALSE(scan_message(part, kRequestFields, head));
    ASSERT_EQ(head.parameters.size(), static_cast<std::size_t>(names));
    std::map<std::string_view, Parameter> read(head.parameters.begin(), head.parameters.end());
    for (std::int64_t i = names; i-- > 0;) ASSERT_EQ(read.at(name(i)), Parameter(value--)) << i;
}

TEST(ScanMessage, TakesTheLastOfEachNameHoweverManyThereAre) {
    for (const std::int64_t names : {1, 2, 15, 16, 17, 18, 31, 32, 33, 64, 100}) {
        for (const std::int64_t rounds : {1, 2, 3, 7}) {
            for (const std::size_t parts : {1U, 2U, 5U}) check_many(names, rounds, parts);
        }
    }
    check_many(100'000, 2, 1);
}

TEST(ScanMessage, HoldsNoMoreThanTwiceWhatIsLeft) {
    std::string data;
    for (int i = 0; i < 1'000'000; ++i) data += "\x22\x00"sv;
    for (std::int64_t i = 0; i < 100; ++i) append_parameter(data, std::to_string(i), i);
    for (int i = 0; i < 1'000'000; ++i) data += "\x22\x00"sv;
    MessageHead head;
    ASSERT_FALSE(scan_message(data, kRequestFields, head));
    EXPECT_EQ(head.parameters.size(), 101U);
    EXPECT_LE(head.parameters.capacity(), 512U);
}

TEST(ScanStreamReply, MergesResponsesInOneSweep) {
    std::string data;
    for (std::int64_t i = 0; i < 20'000; ++i) {
        std::string response;
        append_parameter(response, std::to_string(i), i);
        append_parameter(response, "last", i);
        append_bytes_field(data, 2, response);
    }
    StreamReply reply;
    ASSERT_FALSE(scan_stream_reply(data, reply));
    EXPECT_EQ(reply.response->parameters.size(), 20'001U);
    EXPECT_EQ(*reply.response->parameter("last"), Parameter(std::int64_t{19'999}));
}

TEST(ScanStreamReply, SaysWhatIsMalformed) {
    const std::vector<std::pair<std::string_view, std::string_view>> cases = {
        {"\x10\x01"sv, "field 2 has wire type 0"},         {"\x0a\x01\xff"sv, "error_message is not UTF-8"},
        {"\x12\x02\x08\x01"sv, "field 1 has wire type 0"}, {"\x12\x01"sv, "field 2 is cut off"},
        {"\x12\x02\x08\x01\x0d"sv, "field 1 is cut off"},  // the message itself before its parts
    };
    for (const auto& [bytes, message] : cases) {
        StreamReply reply;
        EXPECT_EQ(scan_stream_reply(bytes, reply).message, message);
    }
}

TEST(AppendParameter, WritesWhatIsReadAgain) {
    const std::string long_text(20'000, 'x');
    const std::vector<Parameter> values = {{},
                                           true,
                                           false,
                                           std::int64_t{0},
                                           std::int64_t{-1},
                                           std::numeric_limits<std::int64_t>::min(),
                                           std::numeric_limits<std::int64_t>::max(),
                                           std::int64_t{127},
                                           std::int64_t{128},
                                           std::uint64_t{0},
                                           std::numeric_limits<std::uint64_t>::max(),
                                           0.0,
                                           -1.5,
                                           std::numeric_limits<double>::infinity(),
                                           ""sv,
                                           "v"sv,
                                           std::string_view(long_text).substr(0, 119),
                                           std::string_view(long_text)};
    for (const std::size_t name_size : {0U, 1U, 127U, 128U, 16'384U}) {
        std::string data;
        for (const Parameter& value : values) append_parameter(data, std::string(name_size, 'n'), value);
        for (const Parameter& value : values) {
            std::string one;
            append_parameter(one, std::string(name_size, 'n'), value);
            MessageHead head;
            ASSERT_FALSE(scan_message(one, kRequestFields, head));
            ASSERT_EQ(head.parameters.size(), 1U);
            EXPECT_EQ(head.parameters[0].first, std::string(name_size, 'n'));
            EXPECT_EQ(head.parameters[0].second, value) << written(value);
        }
        MessageHead head;
        ASSERT_FALSE(scan_message(data, kRequestFields, head));
        EXPECT_EQ(head.parameters.at(0).second, values.back());
    }
}

TEST(AppendVarint, WritesTheShortestForm) {
    for (const auto& [value, bytes] : std::vector<std::pair<std::uint64_t, std::string>>{
             {0, std::string(1, '\0')},
             {127, "\x7f"},
             {128, "\x80\x01"},
             {300, "\xac\x02"},
             {std::numeric_limits<std::uint64_t>::max(), "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"}}) {
        std::string out;
        append_varint(out, value);
        EXPECT_EQ(out, bytes);
    }
}

}  // namespace
}  // namespace anyserve
