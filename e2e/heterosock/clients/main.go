// main serve PORT FILE | call PORT: a program that makes its system calls itself.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	if os.Args[1] == "serve" {
		http.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, os.Args[3]) })
		panic(http.ListenAndServe("127.0.0.1:"+os.Args[2], nil))
	}
	for i := 0; i < 20; i++ {
		answer, err := http.Get("http://127.0.0.1:" + os.Args[2] + "/file")
		if err != nil {
			panic(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		fmt.Printf("%x\n", sha256.Sum256(body))
	}
}
