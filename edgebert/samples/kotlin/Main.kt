package edgebert

import java.io.File
import kotlin.math.sqrt
import kotlin.system.exitProcess

/** BUNDLE "a text" ["a second text"], or BUNDLE --golden, on a JVM with ONNX Runtime; --point N first for that one. */
fun main(given: Array<String>) {
    val asked = given.firstOrNull() == "--point" && given.size > 1
    val point = if (asked) given[1].toInt() else 1
    val words = if (asked) given.drop(2) else given.toList()
    if (words.size !in 2..3) {
        System.err.println("give BUNDLE and a text, BUNDLE and two texts, or BUNDLE and --golden")
        exitProcess(2)
    }
    val bundle = File(words[0])
    val app = bundle.resolve("samples/app.json").readText()
    val settings = Json.parse(app) as Map<*, *>
    val points = settings["points"] as List<*>
    if (point !in 1..points.size) {
        System.err.println("this bundle has ${points.size} operating points, and no $point")
        exitProcess(2)
    }
    val file = (points[point - 1] as Map<*, *>)["onnx"] as String
    val golden = if (point == 1) "golden.json" else "golden_point$point.json"
    val model = OnnxModel(bundle.resolve(file).path, (settings["threads"] as Number).toInt())
    Classifier(app, bundle.resolve("labels.json").readText(), bundle.resolve("vocab.txt").readText(), model).use {
        if (words[1] == "--golden") checkGolden(it, Json.parse(bundle.resolve(golden).readText()) as Map<*, *>, file)
        else for ((text, label, score) in it.classify(words[1], words.getOrNull(2)))
            println(listOfNotNull(text, label, "%.4f".format(java.util.Locale.ROOT, score)).joinToString("\t"))
    }
}

/** Ids and logits of golden.json against our own; ends the program where they differ. */
private fun checkGolden(classifier: Classifier, golden: Map<*, *>, file: String) {
    fun fail(reason: String): Nothing {
        System.err.println(reason)
        exitProcess(1)
    }
    var errors = 0.0
    var truths = 0.0
    val rows = (golden["rows"] as List<*>).map { it as Map<*, *> }
    for (row in rows) {
        val made = classifier.tokenizer.encode(row["text"] as String, row["pair"] as String?, classifier.length)
        val count = (row["attention_mask"] as List<*>).sumOf { (it as Double).toInt() }
        if (made.ids.toList() != (row["input_ids"] as List<*>).take(count).map { (it as Double).toInt() }) {
            fail("other ids for ${row["text"]}")
        }
        val truth = (row["logits"] as List<*>).flatMap { if (it is List<*>) it else listOf(it) }.map { it as Double }
        val logits = classifier.logits(made)
        if (logits.size != truth.size) fail("${logits.size} logits instead of ${truth.size}")
        truth.forEachIndexed { i, value ->
            errors += (logits[i] - value) * (logits[i] - value)
            truths += value * value
        }
    }
    val off = sqrt(errors / truths)
    val bound = ((golden["bounds"] as Map<*, *>)[file] as Map<*, *>)["relative_rmse"] as Double
    println("${rows.size} golden rows: the same ids; logits off by %.1e, allowed %.1e".format(java.util.Locale.ROOT, off, bound))
    if (off > bound) fail("the logits are too far off")
}
