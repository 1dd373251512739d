package edgebert.app

import edgebert.OnnxModel
import java.io.File
import java.util.Locale
import java.util.concurrent.Executors
import java.util.concurrent.TimeUnit

/** What examples/android does on a phone, on a JVM: the assets are a folder, and ONNX Runtime is Java's. */
fun main(words: Array<String>) {
    val assets = File(words[0])
    val onnx = Runtime { file, threads, _ -> OnnxModel(assets.resolve(file).path, threads) }
    Labeller({ assets.resolve(it).readText() }, mapOf("onnx" to onnx, "other" to onnx)).use { labeller ->
        println("${labeller.names} ${labeller.points} ${labeller.pairs}")
        for (point in 1..labeller.points) {
            val done = labeller.checkGolden("onnx", point)
            println("golden\t$point\t${done.rows}\t${done.ok}")
        }
        for (point in 1..labeller.points) {
            val done = labeller.label(words[1], null, "onnx", point)
            check(done.millis > 0 && done.point == point)
            val answers = done.answers.joinToString("\t") { "%s\t%.4f".format(Locale.ROOT, it.label, it.score) }
            println("label\t${done.file}\t${done.tokens}\t$answers")
        }
        val refused = runCatching { labeller.label("a", null, "other") }.exceptionOrNull()
        println("refused\t${refused?.message}")
    }
    val worker = Executors.newSingleThreadScheduledExecutor()
    val ran = ArrayList<String>()
    val typed = Debounced<String>(300, worker) { synchronized(ran) { ran += it } }
    for (text in listOf("p", "pl", "pla", "play")) typed.submit(text)
    Thread.sleep(900)
    typed.submit("jazz")
    worker.shutdown() // what is still waiting runs
    worker.awaitTermination(10, TimeUnit.SECONDS)
    println("debounced\t${ran.joinToString("\t")}")
}
