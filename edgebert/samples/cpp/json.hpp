// As much JSON as the bundle's own files need.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace edgebert {

/// Appends a character as UTF-8.
inline void append_utf8(std::string& out, uint32_t code) {
    if (code < 0x80) {
        out += static_cast<char>(code);
    } else if (code < 0x800) {
        out += static_cast<char>(0xC0 | code >> 6);
        out += static_cast<char>(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        out += static_cast<char>(0xE0 | code >> 12);
        out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
        out += static_cast<char>(0x80 | (code & 0x3F));
    } else {
        out += static_cast<char>(0xF0 | code >> 18);
        out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
        out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
        out += static_cast<char>(0x80 | (code & 0x3F));
    }
}

/// A value: text, number, truth (a number), list or object; everything empty for null.
struct Json {
    std::string text;
    double number = 0;
    std::vector<Json> list;
    std::map<std::string, Json> object;

    static Json parse(const std::string& content) {
        Reader reader{content};
        Json value = reader.value();
        reader.blanks();
        if (reader.at != content.size()) throw std::runtime_error("JSON: more than one value");
        return value;
    }

    const Json& operator[](const std::string& name) const {
        const auto found = object.find(name);
        if (found == object.end()) throw std::runtime_error("JSON: no " + name);
        return found->second;
    }

    bool has(const std::string& name) const { return object.count(name) > 0; }

  private:
    struct Reader {
        const std::string& in;
        size_t at = 0;

        char peek() const {
            if (at >= in.size()) throw std::runtime_error("JSON: it ends too early");
            return in[at];
        }
        void blanks() {
            while (at < in.size() && (in[at] == ' ' || in[at] == '\n' || in[at] == '\t' || in[at] == '\r')) ++at;
        }
        bool accept(char wanted) {
            blanks();
            if (peek() != wanted) return false;
            ++at;
            return true;
        }
        void expect(char wanted) {
            if (!accept(wanted)) throw std::runtime_error(std::string("JSON: expected ") + wanted);
        }

        Json value() {
            Json found;
            blanks();
            if (accept('{')) {
                while (!accept('}')) {
                    blanks();
                    std::string name = string();
                    expect(':');
                    found.object.emplace(std::move(name), value());
                    accept(',');
                }
            } else if (accept('[')) {
                while (!accept(']')) {
                    found.list.push_back(value());
                    accept(',');
                }
            } else if (peek() == '"') {
                found.text = string();
            } else if (peek() == 't' || peek() == 'f' || peek() == 'n') {
                found.number = peek() == 't';
                at += peek() == 'f' ? 5 : 4;
            } else {
                const char* begin = in.c_str() + at;
                char* end = nullptr;
                found.number = std::strtod(begin, &end);
                if (end == begin) throw std::runtime_error("JSON: not a value");
                at += static_cast<size_t>(end - begin);
            }
            return found;
        }

        std::string string() {
            expect('"');
            std::string found;
            while (peek() != '"') {
                char one = in[at++];
                if (one != '\\') {
                    found += one;
                    continue;
                }
                one = peek();
                ++at;
                switch (one) {
                    case 'n': found += '\n'; break;
                    case 't': found += '\t'; break;
                    case 'r': found += '\r'; break;
                    case 'b': found += '\b'; break;
                    case 'f': found += '\f'; break;
                    case 'u': append_utf8(found, escaped()); break;
                    default: found += one;
                }
            }
            ++at;
            return found;
        }

        uint32_t unit() {
            if (at + 4 > in.size()) throw std::runtime_error("JSON: it ends too early");
            const auto found = static_cast<uint32_t>(std::stoul(in.substr(at, 4), nullptr, 16));
            at += 4;
            return found;
        }
        uint32_t escaped() {
            const uint32_t high = unit();
            if (high < 0xD800 || high > 0xDBFF) return high;
            at += 2;  // the second half's \u
            return 0x10000 + ((high - 0xD800) << 10) + (unit() - 0xDC00);
        }
    };
};

}  // namespace edgebert
