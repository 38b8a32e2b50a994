// A client by grpc-go that sends bytes and tells what came back. One call per line of input, tab-separated:
//
//	unary|stream  /package.Service/Method  timeout_ms  key=value,…  request in hex,…
//
// and one line of output for each: the status code's name, its message in hex, replies in hex,…
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// raw passes messages on as bytes.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (raw) Unmarshal(b []byte, v any) error { *v.(*[]byte) = append([]byte(nil), b...); return nil }
func (raw) Name() string                    { return "proto" }

func main() {
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
	if err != nil {
		panic(err)
	}
	defer connection.Close()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		replies, err := call(connection, strings.Split(lines.Text(), "\t"))
		told := status.Convert(err)
		fmt.Printf("%s\t%x\t%s\n", told.Code(), told.Message(), strings.Join(replies, ","))
	}
}

func call(connection *grpc.ClientConn, fields []string) ([]string, error) {
	milliseconds, _ := strconv.Atoi(fields[2])
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(milliseconds)*time.Millisecond)
	defer cancel()
	for _, pair := range strings.Split(fields[3], ",") {
		if key, value, found := strings.Cut(pair, "="); found {
			ctx = metadata.AppendToOutgoingContext(ctx, key, value)
		}
	}
	description := &grpc.StreamDesc{ClientStreams: fields[0] == "stream", ServerStreams: fields[0] == "stream"}
	stream, err := connection.NewStream(ctx, description, fields[1])
	if err != nil {
		return nil, err
	}
	for _, text := range strings.Split(fields[4], ",") {
		message, _ := hex.DecodeString(text)
		if err := stream.SendMsg(&message); err != nil && err != io.EOF {
			return nil, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	var replies []string
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err == io.EOF {
			return replies, nil
		} else if err != nil {
			return replies, err
		}
		replies = append(replies, hex.EncodeToString(message))
		if fields[0] == "unary" {
			return replies, nil
		}
	}
}
