// BERT's WordPiece tokenizer: the ids that Hugging Face `tokenizers` gives, from UTF-8, with nothing but C++17.
//
// What each character becomes stands in app.json, so no Unicode library is needed. Places in a text are bytes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "json.hpp"

namespace edgebert {

using Place = std::pair<int, int>;  // first byte, and the one after the last; -1 for [CLS] and [SEP]

struct Token {
    int id;
    Place place;
};

/// A text, or two, as the model takes it. types: 0 for the first text, 1 for the second.
struct Row {
    std::vector<int> ids, types;
    std::vector<Place> places;
};

/// A character of a text and where it stands. Bytes that are not UTF-8 count as U+FFFD.
struct Character {
    uint32_t code;
    Place place;
};

inline std::vector<Character> characters(const std::string& text) {
    std::vector<Character> found;
    for (size_t at = 0; at < text.size();) {
        const auto lead = static_cast<unsigned char>(text[at]);
        const size_t more = lead < 0x80 ? 0 : lead >= 0xC2 && lead < 0xE0 ? 1 : lead >= 0xE0 && lead < 0xF0 ? 2
                            : lead >= 0xF0 && lead < 0xF5 ? 3 : 4;
        uint32_t code = more == 0 ? lead : lead & (0x3F >> more);
        size_t read = 1;
        while (more < 4 && read <= more && at + read < text.size() && (text[at + read] & 0xC0) == 0x80)
            code = code << 6 | (static_cast<unsigned char>(text[at + read++]) & 0x3F);
        const bool cut = more == 4 || read <= more;
        const bool wrong = cut || (code >= 0xD800 && code < 0xE000) || code > 0x10FFFF || (more == 2 && code < 0x800) ||
                           (more == 3 && code < 0x10000);
        if (wrong) {
            code = 0xFFFD;
            read = 1;
        }
        found.push_back({code, {static_cast<int>(at), static_cast<int>(at + read)}});
        at += read;
    }
    return found;
}

/// How many tokens of each text stay where `room` are allowed: the longer one is cut first.
inline Place kept(int first, int second, int room) {
    if (first + second <= room) return {first, second};
    int less = std::min(first, second);
    int longer = less > room ? less : std::max(less, room - less);
    if (less + longer > room) {
        less = room / 2;
        longer = less + room % 2;
    }
    return first > second ? Place{longer, less} : Place{less, longer};
}

class WordPiece {
  public:
    /// settings: "tokenizer" of app.json. vocabulary: the content of vocab.txt.
    WordPiece(const Json& settings, const std::string& vocabulary)
        : prefix_(settings["prefix"].text), unknown_(integer(settings["unknown"])), first_(integer(settings["first"])),
          last_(integer(settings["last"])), pad_(integer(settings["pad"])), longest_(integer(settings["longest_word"])),
          hangul_(settings["hangul"].number != 0), removed_(ranges(settings["removed"])),
          spaced_(ranges(settings["spaced"])), space_(ranges(settings["space"])),
          punctuation_(ranges(settings["punctuation"])) {
        for (size_t start = 0, end, id = 0; start < vocabulary.size(); start = end + 1, ++id) {
            end = std::min(vocabulary.find('\n', start), vocabulary.size());
            ids_[vocabulary.substr(start, end - start)] = static_cast<int>(id);
        }
        for (const auto& [name, id] : settings["special"].object) special_.emplace_back(name, integer(id));
        std::sort(special_.begin(), special_.end(),
                  [](const auto& one, const auto& other) { return one.first.size() > other.first.size(); });
        for (size_t i = 0; i < settings["from"].list.size(); ++i)
            for (const Character& one : characters(settings["to"].list[i].text))
                changes_[static_cast<uint32_t>(settings["from"].list[i].number)].push_back(one.code);
    }

    int pad() const { return pad_; }

    /// What a character becomes.
    std::vector<uint32_t> normalised(uint32_t code) const {
        const auto changed = changes_.find(code);
        if (changed != changes_.end()) return changed->second;
        if (hangul_ && code >= 0xAC00 && code <= 0xD7A3) {
            const uint32_t index = code - 0xAC00, tail = index % 28;
            std::vector<uint32_t> letters{0x1100 + index / 588, 0x1161 + index % 588 / 28};
            if (tail) letters.push_back(0x11A7 + tail);
            return letters;
        }
        if (within(removed_, code)) return {};
        return within(spaced_, code) ? std::vector<uint32_t>{' ', code, ' '} : std::vector<uint32_t>{code};
    }

    /// The tokens of one text, without [CLS] and [SEP].
    std::vector<Token> tokens(const std::string& text) const {
        std::vector<Token> found;
        std::vector<Character> word;
        const std::vector<Character> all = characters(text);
        for (size_t i = 0; i < all.size();) {
            const Place place = all[i].place;
            const auto special = std::find_if(special_.begin(), special_.end(), [&](const auto& one) {
                return text.compare(static_cast<size_t>(place.first), one.first.size(), one.first) == 0;
            });
            if (special != special_.end()) {
                close(word, found);
                const int end = place.first + static_cast<int>(special->first.size());
                found.push_back({special->second, {place.first, end}});
                while (i < all.size() && all[i].place.first < end) ++i;
                continue;
            }
            for (const uint32_t code : normalised(all[i].code)) {
                const bool alone = within(punctuation_, code), blank = within(space_, code);
                if (alone || blank) close(word, found);
                if (!blank) word.push_back({code, place});
                if (alone) close(word, found);
            }
            ++i;
        }
        close(word, found);
        return found;
    }

    /// A row of at most `length` tokens. pair: the second text, null for none.
    Row encode(const std::string& text, const std::string* pair, int length) const {
        const std::vector<Token> one = tokens(text), other = pair ? tokens(*pair) : std::vector<Token>{};
        const Place stay = kept(static_cast<int>(one.size()), static_cast<int>(other.size()), length - (pair ? 3 : 2));
        Row row;
        const auto add = [&row](const Token& token, int type) {
            row.ids.push_back(token.id);
            row.types.push_back(type);
            row.places.push_back(token.place);
        };
        add({first_, {-1, -1}}, 0);
        for (int i = 0; i < stay.first; ++i) add(one[static_cast<size_t>(i)], 0);
        add({last_, {-1, -1}}, 0);
        for (int i = 0; i < stay.second; ++i) add(other[static_cast<size_t>(i)], 1);
        if (pair) add({last_, {-1, -1}}, 1);
        return row;
    }

    /// Where the words of a text stand: what is between blanks.
    std::vector<Place> words(const std::string& text) const {
        std::vector<Place> found;
        bool open = false;
        for (const Character& one : characters(text)) {
            const std::vector<uint32_t> codes = normalised(one.code);
            const bool blank = !codes.empty() && std::all_of(codes.begin(), codes.end(),
                                                             [&](uint32_t code) { return within(space_, code); });
            if (!blank && !open) found.push_back(one.place);
            if (!blank) found.back().second = one.place.second;
            open = !blank;
        }
        return found;
    }

  private:
    using Ranges = std::vector<std::pair<uint32_t, uint32_t>>;

    static int integer(const Json& value) { return static_cast<int>(value.number); }

    static Ranges ranges(const Json& value) {
        Ranges found;
        for (const Json& pair : value.list)
            found.emplace_back(static_cast<uint32_t>(pair.list[0].number), static_cast<uint32_t>(pair.list[1].number));
        return found;
    }

    static bool within(const Ranges& ranges, uint32_t code) {
        const auto after = std::upper_bound(ranges.begin(), ranges.end(), code,
                                            [](uint32_t one, const auto& range) { return one < range.first; });
        return after != ranges.begin() && code <= std::prev(after)->second;
    }

    /// The longest piece that the word starts with, then the longest that the rest starts with; unknown if none fits.
    void close(std::vector<Character>& word, std::vector<Token>& found) const {
        if (word.empty()) return;
        std::vector<Token> pieces;
        size_t from = 0;
        while (word.size() <= static_cast<size_t>(longest_) && from < word.size()) {
            std::vector<size_t> ends;  // bytes of the candidate up to each character
            std::string whole = from ? prefix_ : "";
            for (size_t i = from; i < word.size(); ++i) {
                append_utf8(whole, word[i].code);
                ends.push_back(whole.size());
            }
            size_t count = ends.size();
            auto piece = ids_.end();
            while (count > 0 && (piece = ids_.find(whole.substr(0, ends[count - 1]))) == ids_.end()) --count;
            if (count == 0) break;
            pieces.push_back({piece->second, {word[from].place.first, word[from + count - 1].place.second}});
            from += count;
        }
        if (from < word.size()) pieces = {{unknown_, {word.front().place.first, word.back().place.second}}};
        found.insert(found.end(), pieces.begin(), pieces.end());
        word.clear();
    }

    std::string prefix_;
    int unknown_, first_, last_, pad_, longest_;
    bool hangul_;
    Ranges removed_, spaced_, space_, punctuation_;
    std::unordered_map<std::string, int> ids_;
    std::vector<std::pair<std::string, int>> special_;
    std::unordered_map<uint32_t, std::vector<uint32_t>> changes_;
};

}  // namespace edgebert
