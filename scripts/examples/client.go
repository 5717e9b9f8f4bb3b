// Control an agent with nothing but the standard library.
//
//	go run client.go [HOST:PORT]
//
// Lists the members, sends the user event `hello`, and waits until it arrives.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"time"
)

type request struct {
	Command string   `json:"command"`
	Seq     int      `json:"seq"`
	Types   []string `json:"types,omitempty"`
	Name    string   `json:"name,omitempty"`
	Payload string   `json:"payload,omitempty"`
}

// A reply or a record of a stream, with the fields that this program reads.
type record struct {
	Seq     int                      `json:"seq"`
	OK      *bool                    `json:"ok"`
	Error   struct{ Message string } `json:"error"`
	Event   string                   `json:"event"`
	Name    string                   `json:"name"`
	Payload string                   `json:"payload"`
	Members []struct{ Name, Status string }
}

func main() {
	address := "127.0.0.1:7373"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	agent, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	defer agent.Close()
	agent.SetDeadline(time.Now().Add(10 * time.Second))
	requests := json.NewEncoder(agent)
	send := func(one request) {
		if err := requests.Encode(one); err != nil {
			log.Fatal(err)
		}
	}

	// The stream is open before the event is sent, so that the event cannot be missed.
	send(request{Command: "stream", Seq: 1, Types: []string{"user:hello"}})
	replies := json.NewDecoder(bufio.NewReader(agent))
	for {
		var one record
		if err := replies.Decode(&one); err != nil {
			log.Fatal(err)
		}
		switch {
		case one.OK != nil && !*one.OK:
			log.Fatal(one.Error.Message)
		case one.Event != "":
			fmt.Println(one.Name, one.Payload)
			return
		case one.Seq == 1:
			send(request{Command: "members", Seq: 2})
		case one.Seq == 2:
			for _, member := range one.Members {
				fmt.Println(member.Name, member.Status)
			}
			send(request{Command: "event", Seq: 3, Name: "hello", Payload: "from Go"})
		}
	}
}
