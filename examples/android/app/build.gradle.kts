plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "edgebert.app"
    compileSdk = 35

    defaultConfig {
        applicationId = "edgebert.app"
        minSdk = 24 // what onnxruntime-android asks for
        targetSdk = 35
        versionCode = 1
        versionName = "1.0"
        ndk { abiFilters += listOf("arm64-v8a", "armeabi-v7a") }
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
    kotlinOptions { jvmTarget = "11" }
    // A compressed asset cannot be mapped, and weights do not shrink.
    androidResources { noCompress += listOf("onnx", "tflite", "data") }
}

dependencies {
    // An app ships one of the two; this one shows both. Leave one out together with its line in MainActivity.
    implementation("com.microsoft.onnxruntime:onnxruntime-android:1.22.0")
    implementation("com.google.ai.edge.litert:litert:1.4.0")
}

val taken = tasks.register("requireBundle") {
    val app = layout.projectDirectory.file("src/main/assets/bundle/samples/app.json").asFile
    doLast { check(app.exists()) { "no bundle in this project: run ./take-bundle.sh PATH-OF-A-BUNDLE first" } }
}
tasks.matching { it.name == "preBuild" }.configureEach { dependsOn(taken) }
