package edgebert

/** As much JSON as the bundle's own files need: maps, lists, strings, doubles, booleans, null. */
class Json private constructor(private val text: String) {
    private var at = 0

    private fun value(): Any? {
        blanks()
        return when (text[at]) {
            '{' -> LinkedHashMap<String, Any?>().also { found ->
                each('}') {
                    val name = string()
                    blanks()
                    at++ // the colon
                    found[name] = value()
                }
            }
            '[' -> ArrayList<Any?>().also { found -> each(']') { found += value() } }
            '"' -> string()
            't' -> true.also { at += 4 }
            'f' -> false.also { at += 5 }
            'n' -> null.also { at += 4 }
            else -> {
                val start = at
                while (at < text.length && text[at] in "+-.eE0123456789") at++
                text.substring(start, at).toDouble()
            }
        }
    }

    private fun each(end: Char, read: () -> Unit) {
        at++
        blanks()
        while (text[at] != end) {
            read()
            blanks()
            if (text[at] == ',') at++
            blanks()
        }
        at++
    }

    private fun blanks() {
        while (at < text.length && text[at] in " \n\r\t") at++
    }

    private fun string(): String {
        val found = StringBuilder()
        at++
        while (text[at] != '"') {
            val one = text[at++]
            if (one != '\\') {
                found.append(one)
                continue
            }
            when (val escaped = text[at++]) {
                'n' -> found.append('\n')
                't' -> found.append('\t')
                'r' -> found.append('\r')
                'b' -> found.append('\b')
                'f' -> found.append('\u000C')
                'u' -> {
                    found.append(text.substring(at, at + 4).toInt(16).toChar())
                    at += 4
                }
                else -> found.append(escaped)
            }
        }
        at++
        return found.toString()
    }

    companion object {
        fun parse(text: String): Any? = Json(text).value()
    }
}
