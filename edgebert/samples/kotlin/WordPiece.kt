package edgebert

/** A token of a text: its number, and where it stands, in UTF-16 units; -1 for [CLS] and [SEP]. */
data class Token(val id: Int, val start: Int, val end: Int)

/** A text, or two, as the model takes it. types: 0 for the first text, 1 for the second. */
class Row(val tokens: List<Token>, val types: IntArray) {
    val ids = IntArray(tokens.size) { tokens[it].id }
}

/**
 * BERT's WordPiece tokenizer: the ids that Hugging Face `tokenizers` gives, on the JVM and on Android.
 *
 * What each character becomes stands in app.json, so the answer does not depend on the Unicode tables of the JVM.
 *
 * @param settings "tokenizer" of app.json. @param vocabulary the content of vocab.txt.
 */
class WordPiece(settings: Map<*, *>, vocabulary: String) {
    val pad = settings.int("pad")
    private val unknown = settings.int("unknown")
    private val first = settings.int("first")
    private val last = settings.int("last")
    private val longest = settings.int("longest_word")
    private val prefix = settings["prefix"] as String
    private val hangul = settings["hangul"] as Boolean
    private val removed = settings.ranges("removed")
    private val spaced = settings.ranges("spaced")
    private val space = settings.ranges("space")
    private val punctuation = settings.ranges("punctuation")
    private val ids = HashMap<String, Int>()
    private val special = (settings["special"] as Map<*, *>).map { (name, id) -> name as String to (id as Number).toInt() }
        .sortedByDescending { it.first.length }
    private val changes = HashMap<Int, IntArray>()

    init {
        vocabulary.removeSuffix("\n").split("\n").forEachIndexed { id, piece -> ids[piece] = id }
        val texts = settings["to"] as List<*>
        (settings["from"] as List<*>).forEachIndexed { place, code ->
            changes[(code as Number).toInt()] = (texts[place] as String).codePoints().toArray()
        }
    }

    /** What a character becomes: code points. */
    private fun normalised(code: Int): IntArray {
        changes[code]?.let { return it }
        if (hangul && code in HANGUL) {
            val index = code - HANGUL.first
            val letters = intArrayOf(0x1100 + index / 588, 0x1161 + index % 588 / 28)
            return if (index % 28 == 0) letters else letters + (0x11A7 + index % 28)
        }
        return when {
            code in removed -> intArrayOf()
            code in spaced -> intArrayOf(0x20, code, 0x20)
            else -> intArrayOf(code)
        }
    }

    /** The tokens of one text, without [CLS] and [SEP]. */
    fun tokens(text: String): List<Token> {
        val found = ArrayList<Token>()
        val word = ArrayList<Token>() // characters in place of ids
        fun close() {
            if (word.isNotEmpty()) found += pieces(word)
            word.clear()
        }
        var start = 0
        while (start < text.length) {
            val name = special.firstOrNull { text.startsWith(it.first, start) }
            if (name != null) {
                close()
                found += Token(name.second, start, start + name.first.length)
                start += name.first.length
                continue
            }
            val read = text.codePointAt(start)
            val end = start + Character.charCount(read)
            for (code in normalised(if (read in SURROGATES) REPLACEMENT else read)) {
                val alone = code in punctuation
                val blank = code in space
                if (alone || blank) close()
                if (!blank) word += Token(code, start, end)
                if (alone) close()
            }
            start = end
        }
        close()
        return found
    }

    /** The longest piece that the word starts with, then the longest that the rest starts with; unknown if none fits. */
    private fun pieces(word: List<Token>): List<Token> {
        val found = ArrayList<Token>()
        var from = 0
        while (word.size <= longest && from < word.size) {
            val whole = StringBuilder(if (from > 0) prefix else "")
            val ends = IntArray(word.size - from) { whole.appendCodePoint(word[from + it].id).length }
            var count = ends.size
            while (count > 0 && whole.substring(0, ends[count - 1]) !in ids) count--
            if (count == 0) break
            found += Token(ids.getValue(whole.substring(0, ends[count - 1])), word[from].start, word[from + count - 1].end)
            from += count
        }
        return if (from == word.size) found else listOf(Token(unknown, word.first().start, word.last().end))
    }

    /** A row of at most [length] tokens. */
    fun encode(text: String, pair: String?, length: Int): Row {
        val one = tokens(text)
        val other = pair?.let { tokens(it) }
        val (left, right) = kept(one.size, other?.size ?: 0, length - if (other == null) 2 else 3)
        val begin = listOf(Token(first, -1, -1)) + one.take(left) + Token(last, -1, -1)
        val rest = if (other == null) listOf() else other.take(right) + Token(last, -1, -1)
        return Row(begin + rest, IntArray(begin.size + rest.size) { if (it < begin.size) 0 else 1 })
    }

    /** Where the words of a text stand: what is between blanks. */
    fun words(text: String): List<IntRange> {
        val found = ArrayList<IntRange>()
        var begun = -1
        var at = 0
        while (at < text.length) {
            val read = text.codePointAt(at)
            val codes = normalised(read)
            val blank = codes.isNotEmpty() && codes.all { it in space }
            if (blank && begun >= 0) found += begun until at
            if (blank) begun = -1 else if (begun < 0) begun = at
            at += Character.charCount(read)
        }
        if (begun >= 0) found += begun until at
        return found
    }

    private class Ranges(private val firsts: IntArray, private val lasts: IntArray) {
        operator fun contains(code: Int): Boolean {
            val place = firsts.binarySearch(code).let { if (it < 0) -it - 2 else it }
            return place >= 0 && code <= lasts[place]
        }
    }

    private fun Map<*, *>.int(name: String) = (need(name) as Number).toInt()

    private fun Map<*, *>.need(name: String): Any = requireNotNull(this[name]) { "app.json has no $name" }

    private fun Map<*, *>.ranges(name: String): Ranges {
        val pairs = (need(name) as List<*>).map { pair -> (pair as List<*>).map { (it as Number).toInt() } }
        return Ranges(IntArray(pairs.size) { pairs[it][0] }, IntArray(pairs.size) { pairs[it][1] })
    }

    companion object {
        private val HANGUL = 0xAC00..0xD7A3
        private val SURROGATES = 0xD800..0xDFFF
        private const val REPLACEMENT = 0xFFFD

        /** How many tokens of each text stay where [room] are allowed: the longer one is cut first. */
        fun kept(first: Int, second: Int, room: Int): Pair<Int, Int> {
            if (first + second <= room) return first to second
            var less = minOf(first, second)
            var longer = if (less > room) less else maxOf(less, room - less)
            if (less + longer > room) {
                less = room / 2
                longer = less + room % 2
            }
            return if (first > second) longer to less else less to longer
        }
    }
}
